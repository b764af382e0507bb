"""Which pictures a spec has: every alternative is shown, domains at their ends, and nothing that is off."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from search_spaces import presets
from search_spaces.augmentation import AugmentationSpec
from search_spaces.experiment import ExperimentSpec
from search_spaces.optimizers import SGD, Adam
from search_spaces.schedulers import Cosine, OneCycle, Plateau
from workers.data.splits import load
from workers.plots import cli

AUGMENTATIONS = {"choice": [{"rotation": {"uniform": [0, 15]}, "contrast": {"choice": [0.4, 0.1]}}, {}]}


def experiment(**space: Any) -> ExperimentSpec:
    return ExperimentSpec.model_validate({"name": "x", "search_space": space, "max_epochs": 4})


def test_every_alternative_is_shown_with_its_domains_at_their_ends() -> None:
    schedulers = {"choice": [{"kind": "cosine", "warmup_epochs": {"uniform": [0.5, 2]}}, "one_cycle"]}
    found = cli.alternatives(experiment(scheduler=schedulers).search_space.scheduler)
    assert found == [Cosine(warmup_epochs=0.5), Cosine(warmup_epochs=2), OneCycle()]
    assert cli.alternatives(Plateau()) == [Plateau()]


@pytest.mark.parametrize("most", [1, 2, 5])
def test_panels_are_limited_and_shared_by_the_alternatives(most: int) -> None:
    wide = {"kind": "plateau", "factor": {"quniform": [0.1, 0.9, 0.1]}, "patience": {"int_range": [1, 9]}}
    steep = {"kind": "step", "gamma": {"choice": [0.1, 0.2, 0.5]}}
    found = cli.alternatives(experiment(scheduler={"choice": [wide, steep]}).search_space.scheduler, most)
    assert len(found) <= most
    assert {one.kind for one in found} == ({"plateau", "step"} if most > 1 else {"plateau"})


def test_an_augmentation_is_shown_at_its_strongest() -> None:
    node: Any = experiment(augmentation=AUGMENTATIONS).search_space.augmentation
    assert cli.strongest(node.choice[0]) == AugmentationSpec(rotation=15, contrast=0.4)


def test_what_an_experiment_shows(tmp_path: Path) -> None:
    spec = experiment(augmentation=AUGMENTATIONS)
    drawn = cli.plot_experiment(spec, lambda: load(spec.dataset, 0, tmp_path, tmp_path / "cache"), tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in drawn] == [
        "schedulers.png",
        "schedulers.html",
        "optimizers.png",
        "optimizers.html",
        "augmentation.png",
        "augmentation.html",
    ]
    assert all(path.stat().st_size > 1000 for path in drawn)


def test_normalization_shows_only_what_the_spec_may_bind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = experiment(normalization={"choice": ["layer", {"kind": "group", "groups": 3}]})
    titles: list[str] = []
    monkeypatch.setattr(cli.content.figures, "blocks", lambda panels, *_: titles.extend(t for t, _ in panels) or [])
    monkeypatch.setattr("sys.stdin", io.StringIO(spec.model_dump_json()))
    assert cli.main(["normalization", f"--out={tmp_path}", f"--data-root={tmp_path}", f"--cache-root={tmp_path}"]) == 0
    assert titles == ["layer: over C, H, W", "group: over C/3, H, W"]


@pytest.mark.parametrize(("lr", "shown"), [(0.05, 0.05), ({"loguniform": [0.01, 1.0]}, 1.0)])
def test_schedules_are_drawn_at_the_learning_rate_of_the_spec(
    lr: Any, shown: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = experiment(optimizer={"kind": "sgd", "lr": lr}, scheduler="constant")
    drawn: list[float] = []
    monkeypatch.setattr(cli.content.figures, "curves", lambda panels, *_: drawn.extend(panels[0][1][1]) or [])
    cli.plot_schedulers(spec, tmp_path)
    assert set(drawn) == {shown}


def test_without_augmentation_no_data_are_read(tmp_path: Path) -> None:
    def splits() -> Any:
        raise AssertionError("nothing asks for images")

    assert len(cli.plot_experiment(experiment(), splits, tmp_path)) == 4


def test_optimizers_are_raced_once_each_and_without_their_decay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plotted: list[Any] = []
    monkeypatch.setattr(cli.content, "optimizers", lambda out, specs: plotted.extend(specs) or [])
    sgd = {"kind": "sgd", "lr": {"loguniform": [0.1, 1.0]}, "weight_decay": {"choice": [0.0, 0.5]}}
    cli.plot_optimizers(experiment(optimizer={"choice": [sgd, "adam"]}), tmp_path)
    assert [name for name, _ in plotted] == ["sgd", "adam"]
    assert all(spec.weight_decay == 0 for _, spec in plotted)
    assert plotted[0][1].lr < 0.01, "a rate that suits the function"
    assert (type(plotted[0][1]), type(plotted[1][1])) == (SGD, Adam)


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_has_schedulers_to_show(name: str) -> None:
    assert cli.alternatives(presets.spec(name).search_space.scheduler)


def test_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(topic: str, spec: ExperimentSpec | None) -> int:
        given = "null" if spec is None else json.dumps(spec.model_dump(mode="json"))
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        roots = [f"--data-root={tmp_path / 'data'}", f"--cache-root={tmp_path / 'cache'}"]
        return cli.main([topic, f"--out={tmp_path / 'out'}", *roots])

    assert run("schedulers", experiment()) == 0
    assert [Path(line).exists() for line in capsys.readouterr().out.splitlines()] == [True, True]
    assert run("augmentation", experiment()) == 2
    assert "nothing to draw" in capsys.readouterr().err
    assert run("augmentation", None) == 2
    assert "a SPEC required" in capsys.readouterr().err
    folder = {"name": "image_folder", "path": "nowhere", "mirror_safe": True}
    absent = ExperimentSpec.model_validate({"name": "x", "dataset": folder})
    assert run("augmentation", absent) == 2
    assert "nowhere" in capsys.readouterr().err
