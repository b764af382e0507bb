"""The plots of a spec: every alternative is drawn, with its domains at their ends, and nothing that is off."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from search_spaces import presets
from search_spaces.augmentation import AugmentationSpec
from search_spaces.experiment import ExperimentSpec
from search_spaces.optimizers import SGD, Adam
from search_spaces.schedulers import Cosine, OneCycle, Plateau
from service.cli.local import Topic
from workers.data.splits import load
from workers.plots import cli
from workers.training.loop import Training

AUGMENTATIONS = {"choice": [{"rotation": {"uniform": [0, 15]}, "contrast": {"choice": [0.4, 0.1]}}, {}]}


def experiment(**space: Any) -> ExperimentSpec:
    return ExperimentSpec.model_validate({"name": "x", "search_space": space, "max_epochs": 4})


def test_a_backend_of_a_notebook_that_is_not_installed_here_does_not_matter() -> None:
    environment = {**os.environ, "MPLBACKEND": "module://nowhere.backend_inline"}
    subprocess.run([sys.executable, "-c", "import workers.plots.figures"], env=environment, check=True)


def test_every_alternative_is_drawn_with_its_domains_at_their_ends() -> None:
    schedulers = {"choice": [{"kind": "cosine", "warmup_epochs": {"uniform": [0.5, 2]}}, "one_cycle"]}
    alternatives = cli.alternatives(experiment(scheduler=schedulers).search_space.scheduler)
    assert alternatives == [Cosine(warmup_epochs=0.5), Cosine(warmup_epochs=2), OneCycle()]
    assert cli.alternatives(Plateau()) == [Plateau()]


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_the_number_of_panels_is_limited_and_alternatives_have_equal_shares(limit: int) -> None:
    wide = {"kind": "plateau", "factor": {"quniform": [0.1, 0.9, 0.1]}, "patience": {"int_range": [1, 9]}}
    steep = {"kind": "step", "gamma": {"choice": [0.1, 0.2, 0.5]}}
    alternatives = cli.alternatives(experiment(scheduler={"choice": [wide, steep]}).search_space.scheduler, limit)
    assert len(alternatives) <= limit
    assert {scheduler.kind for scheduler in alternatives} == ({"plateau", "step"} if limit > 1 else {"plateau"})


def test_an_augmentation_is_drawn_at_its_strongest() -> None:
    node: Any = experiment(augmentation=AUGMENTATIONS).search_space.augmentation
    assert cli.strongest(node.choice[0]) == AugmentationSpec(rotation=15, contrast=0.4)


def test_the_command_line_offers_every_topic() -> None:
    assert [topic.value for topic in Topic] == list(cli.TOPICS)


def test_the_plots_of_an_experiment(tmp_path: Path) -> None:
    spec = experiment(augmentation=AUGMENTATIONS)
    paths = cli.plot_experiment(spec, lambda: load(spec.dataset, 0, tmp_path, tmp_path / "cache"), tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "schedulers.png",
        "optimizers.png",
        "augmentation.png",
    ]
    assert all(path.stat().st_size > 1000 for path in paths)


def test_only_normalizations_that_the_spec_may_bind_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = experiment(normalization={"choice": ["layer", {"kind": "group", "groups": 3}]})
    titles: list[str] = []
    monkeypatch.setattr(
        cli.content.figures, "blocks", lambda panels, *_: titles.extend(t for t, _ in panels) or tmp_path
    )
    monkeypatch.setattr("sys.stdin", io.StringIO(spec.model_dump_json()))
    assert cli.main(["normalization", f"--out={tmp_path}", f"--data-root={tmp_path}", f"--cache-root={tmp_path}"]) == 0
    assert titles == ["layer: over C, H, W", "group: over C/3, H, W"]


@pytest.fixture
def drawn_rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rates in the first panel of the schedulers' plot."""
    rates: list[float] = []
    monkeypatch.setattr(cli.content.figures, "curves", lambda panels, *_: rates.extend(panels[0][1][1]) or Path())
    return rates


@pytest.mark.parametrize(("lr", "expected"), [(0.05, 0.05), ({"loguniform": [0.01, 1.0]}, 1.0)])
def test_schedules_are_drawn_at_the_learning_rate_of_the_spec(
    lr: Any, expected: float, tmp_path: Path, drawn_rates: list[float]
) -> None:
    cli.plot_schedulers(experiment(optimizer={"kind": "sgd", "lr": lr}, scheduler="constant"), tmp_path)
    assert set(drawn_rates) == {expected}


@pytest.mark.parametrize("batch_size", [16, 128, {"choice": [256, 64]}])
def test_an_epoch_is_drawn_with_as_many_batches_as_training_has(
    batch_size: Any, tmp_path: Path, drawn_rates: list[float]
) -> None:
    spec = experiment(batch_size=batch_size)
    cli.plot_schedulers(spec, tmp_path)
    smallest = 64 if isinstance(batch_size, dict) else batch_size
    trial = spec.bind({} if smallest == batch_size else {"batch_size": 1})
    assert trial.hyperparameters.batch_size == smallest
    data = load(spec.dataset, 0, tmp_path, tmp_path / "cache")
    assert len(drawn_rates) == spec.max_epochs * Training(trial, data).batches


@pytest.mark.parametrize("epochs", [40, 4000])
def test_a_long_schedule_of_a_large_data_set_has_a_limited_number_of_points(
    epochs: int, tmp_path: Path, drawn_rates: list[float]
) -> None:
    spec = {"name": "x", "dataset": "cifar10", "max_epochs": epochs, "search_space": {"batch_size": 16}}
    cli.plot_schedulers(ExperimentSpec.model_validate(spec), tmp_path)
    assert len(drawn_rates) == {40: cli.MAX_STEPS, 4000: 2 * 4000}[epochs]


def test_a_data_set_of_unknown_size_has_a_default_number_of_batches() -> None:
    spec = {"name": "x", "dataset": {"name": "image_folder", "path": "images"}}
    assert cli.batches_per_epoch(ExperimentSpec.model_validate(spec)) == cli.UNKNOWN_BATCHES


def test_without_augmentation_no_data_are_read(tmp_path: Path) -> None:
    def splits() -> Any:
        raise AssertionError("the data were read")

    assert len(cli.plot_experiment(experiment(), splits, tmp_path)) == 2


def test_each_optimizer_is_drawn_once_and_without_weight_decay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plotted: list[Any] = []
    monkeypatch.setattr(cli.content, "optimizers", lambda out, specs: plotted.extend(specs) or out)
    sgd = {"kind": "sgd", "lr": {"loguniform": [0.1, 1.0]}, "weight_decay": {"choice": [0.0, 0.5]}}
    cli.plot_optimizers(experiment(optimizer={"choice": [sgd, "adam"]}), tmp_path)
    assert [name for name, _ in plotted] == ["sgd", "adam"]
    assert all(spec.weight_decay == 0 for _, spec in plotted)
    assert plotted[0][1].lr < 0.01, "the rate does not suit the function"
    assert (type(plotted[0][1]), type(plotted[1][1])) == (SGD, Adam)


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_has_schedulers_to_draw(name: str) -> None:
    assert cli.alternatives(presets.spec(name).search_space.scheduler)


def test_the_process_prints_paths_or_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(topic: str, spec: ExperimentSpec | None) -> int:
        document = None if spec is None else spec.model_dump(mode="json")
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(document)))
        roots = [f"--data-root={tmp_path / 'data'}", f"--cache-root={tmp_path / 'cache'}"]
        return cli.main([topic, f"--out={tmp_path / 'out'}", *roots])

    assert run("schedulers", experiment()) == 0
    assert [Path(line).exists() for line in capsys.readouterr().out.splitlines()] == [True]
    assert run("augmentation", experiment()) == 2
    assert "nothing to draw" in capsys.readouterr().err
    assert run("augmentation", None) == 2
    assert "a SPEC is required" in capsys.readouterr().err
    folder = {"name": "image_folder", "path": "nowhere", "mirror_safe": True}
    absent = ExperimentSpec.model_validate({"name": "x", "dataset": folder})
    assert run("augmentation", absent) == 2
    assert "nowhere" in capsys.readouterr().err
