"""Running a recorded trial again: it is equal on the CPU, and every kind of difference is found."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces.augmentation import AugmentationSpec
from search_spaces.experiment import Execution, ExperimentSpec, TrialSpec
from workers import reproduce
from workers.data.report import report
from workers.data.splits import DataError, load
from workers.reproduce import Comparison, Difference, tolerance_of
from workers.training.loop import Training

EPOCHS = 2


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trial() -> TrialSpec:
    space = {"augmentation": {"crop_padding": 1, "mixup_alpha": 0.2}, "model": {"kind": "cnn", "width": 4}}
    return ExperimentSpec.model_validate({"name": "x", "search_space": space, "seed": 3}).bind({}, 5)


@pytest.fixture(scope="module", autouse=True)
def threads(trial: TrialSpec) -> Iterator[None]:
    """As many as a slot takes: curves are equal bit for bit with equal threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(trial.cpus)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def recorded(trial: TrialSpec, roots: tuple[Path, Path], threads: None) -> dict[str, dict[int, float | None]]:
    """The curve of the trial as the service returns it, times included."""
    training = Training(trial, load(trial.dataset, trial.split_seed, *roots))
    curve: dict[str, dict[int, float | None]] = {}
    for epoch in range(1, EPOCHS + 1):
        for name, value in training.run_epoch().items():
            curve.setdefault(name, {})[epoch] = value if math.isfinite(value) else None
    return curve


def test_a_trial_is_equal_point_by_point(trial: TrialSpec, recorded: Any, roots: tuple[Path, Path]) -> None:
    found = reproduce.reproduce(trial, json.loads(json.dumps(recorded), object_hook=_epochs), *roots)
    assert found.reproduced
    assert found.differences == ()
    assert found.epochs == EPOCHS
    assert found.points == EPOCHS * len(set(recorded) - reproduce.TIMES - {"epoch"})
    assert "clean_train_accuracy" in recorded
    assert reproduce.report(found)[-1].startswith("reproduced: 2 epochs")


def test_one_bit_is_a_difference(trial: TrialSpec, recorded: Any, roots: tuple[Path, Path]) -> None:
    changed = {name: dict(line) for name, line in recorded.items()}
    changed["train_loss"][2] = math.nextafter(recorded["train_loss"][2], math.inf)
    changed["grad_norm"][1] = None
    found = reproduce.reproduce(trial, changed, *roots)
    assert not found.reproduced
    assert {(d.epoch, d.metric) for d in found.differences} == {(2, "train_loss"), (1, "grad_norm")}
    assert found.largest == Difference(1, "grad_norm", None, recorded["grad_norm"][1])
    table = reproduce.report(found)
    assert any(line.split()[:2] == ["2", "train_loss"] for line in table)
    assert any(line.startswith("differs: ") for line in table)


def test_a_trial_of_other_data_is_not_run(trial: TrialSpec, recorded: Any, roots: tuple[Path, Path]) -> None:
    data = report(trial.dataset, load(trial.dataset, trial.split_seed, *roots))
    first = {name: {1: line[1]} for name, line in recorded.items()}
    assert reproduce.reproduce(trial, first, *roots, data=data).reproduced
    others = data.model_copy(update={"train_sha256": "0" * 64})
    with pytest.raises(DataError, match="digits has changed since the trial: its training images are others"):
        reproduce.reproduce(trial, first, *roots, data=others)


@pytest.mark.parametrize("epoch", [-1, 21, 2**53])
def test_a_curve_that_no_trial_can_have_is_not_run(
    trial: TrialSpec, recorded: Any, roots: tuple[Path, Path], epoch: int
) -> None:
    """A person who may edit a run in MLflow can add any step to it."""
    with pytest.raises(ValueError, match=rf"must be from 1 to 20 \(got {epoch}\)"):
        reproduce.reproduce(trial, {"train_loss": {1: 0.5, epoch: 0.5} if epoch > 0 else {epoch: 0.5}}, *roots)


def test_a_trial_with_another_seed_is_reported_to_differ(
    trial: TrialSpec, recorded: Any, roots: tuple[Path, Path]
) -> None:
    other = trial.model_copy(update={"seed": trial.seed + 1})
    first = {name: {1: line[1]} for name, line in recorded.items()}
    found = reproduce.reproduce(other, first, *roots)
    assert found.epochs == 1
    assert not found.reproduced
    assert reproduce.reproduce(other, first, *roots, tolerance=1.0).reproduced, "the objective is within 1"


def test_a_trial_recorded_before_the_streams_were_separated_is_named_as_such(
    trial: TrialSpec, recorded: Any, roots: tuple[Path, Path]
) -> None:
    """The spec that an earlier version stored has no mark; without augmentation its trials still repeat."""
    first = {name: {1: line[1]} for name, line in recorded.items()}
    stored = TrialSpec.model_validate({k: v for k, v in trial.model_dump().items() if k != "random_streams"})
    found = reproduce.reproduce(stored, first, *roots)
    assert "recorded by an earlier version" in found.note
    assert reproduce.report(found)[-1] == found.note
    assert reproduce.document(found)["note"] == found.note
    plain = stored.hyperparameters.model_copy(update={"augmentation": AugmentationSpec()})
    assert reproduce.reproduce(stored.model_copy(update={"hyperparameters": plain}), first, *roots).note == ""
    assert reproduce.reproduce(trial, first, *roots).note == ""


def test_with_a_tolerance_only_the_objective_decides() -> None:
    def comparison(*differences: Difference) -> Comparison:
        return Comparison(3, 30, differences, "validation_accuracy", "cuda", 1, tolerance=0.02)

    assert comparison(Difference(1, "grad_norm", 1.0, 9.0)).reproduced
    assert comparison(Difference(1, "validation_accuracy", 0.80, 0.81)).reproduced
    assert not comparison(Difference(2, "validation_accuracy", 0.80, 0.83)).reproduced
    assert not comparison(Difference(2, "validation_accuracy", 0.80, None)).reproduced
    assert (
        "by 8; validation_accuracy may differ by 0.02"
        in reproduce.report(comparison(Difference(1, "grad_norm", 1.0, 9.0)))[-1]
    )


@pytest.mark.parametrize(
    ("gpus", "deterministic", "device", "tolerance"),
    [
        (0, False, "cpu", 0.0),
        (0, True, "cpu", 0.0),
        (0.5, False, "cuda", reproduce.GPU_TOLERANCE),
        (0.5, True, "cuda", 0.0),
        (2, True, "cuda", reproduce.GPU_TOLERANCE),  # several processes add in another order
        (1, True, "cpu", reproduce.GPU_TOLERANCE),  # another device rounds differently
    ],
)
def test_the_tolerance_is_zero_where_a_trial_repeats_bit_for_bit(
    trial: TrialSpec, gpus: float, deterministic: bool, device: str, tolerance: float
) -> None:
    execution = Execution(deterministic=deterministic)
    assert tolerance_of(trial.model_copy(update={"gpus": gpus, "execution": execution}), device) == tolerance


def test_the_process(
    trial: TrialSpec,
    recorded: Any,
    roots: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(curve: Any, *options: str, spec: Any = None) -> int:
        points = {name: list(map(list, line.items())) for name, line in curve.items()}
        given = {"spec": spec or trial.model_dump(mode="json"), "curve": points}
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(given)))
        return reproduce.main(["--data-root", str(roots[0]), "--cache-root", str(roots[1]), *options])

    first = {"train_loss": {1: recorded["train_loss"][1]}}
    assert run(first, "--json") == reproduce.REPRODUCED
    assert json.loads(capsys.readouterr().out)["points"] == 1
    assert run({"train_loss": {1: 0.5}}) == reproduce.DIFFERS
    assert "train_loss" in capsys.readouterr().out
    assert run({}) == reproduce.CANNOT
    assert "at least one epoch" in capsys.readouterr().err
    absent = trial.model_dump(mode="json") | {"dataset": {"name": "image_folder", "path": "nowhere"}}
    assert run(first, spec=absent) == reproduce.CANNOT
    assert "nowhere" in capsys.readouterr().err
    newer = trial.model_dump(mode="json") | {"version": 3}
    assert run(first, spec=newer) == reproduce.CANNOT
    assert "its spec cannot be read by this version: version must be 2" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO("{"))
    assert reproduce.main(["--data-root", str(roots[0]), "--cache-root", str(roots[1])]) == reproduce.CANNOT

    def fail(*_: Any) -> None:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED")

    monkeypatch.setattr(Training, "run_epoch", fail)
    assert run(first) == reproduce.CANNOT
    assert "RuntimeError: cuDNN error" in capsys.readouterr().err


def _epochs(plain: dict[str, Any]) -> dict[Any, Any]:
    """JSON's keys are text."""
    return {int(key) if key.isdigit() else key: value for key, value in plain.items()}
