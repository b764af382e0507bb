"""The evaluation of the winner without Ray: its weights, its score and the model that is packed."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pytest
import torch

from search_spaces.experiment import ExperimentSpec
from search_spaces.insight import Insight
from search_spaces.layout import BEST, NAMES, ExperimentFolder
from search_spaces.protocol import ErrorKind, TrialState
from search_spaces.scores import Scores
from search_spaces.storage.folder import FolderStorage
from tests.support.workers import BuildLaunch, BuildSpec, OpenRecorder
from workers.data.report import report
from workers.data.splits import load
from workers.failures.classification import TrialError
from workers.state import checkpoints
from workers.state.outcomes import ValidationOutcomes
from workers.training.loop import Training
from workers.winner.evaluation import Evaluator


def pack_nothing(*_: Any) -> None:
    """For tests that need no model."""


def test_the_plots_of_a_spec(tmp_path: Path, launch: BuildLaunch) -> None:
    spec = ExperimentSpec.model_validate({"name": "x", "search_space": {"augmentation": {"rotation": 9.0}}})
    Evaluator(pack_nothing).draw_plots(spec, launch())
    drawn = {path.name.partition(".")[0] for path in ExperimentFolder(tmp_path).plots.iterdir()}
    assert drawn == {"schedulers", "optimizers", "augmentation"}
    assert not ExperimentFolder(tmp_path).insight.exists(), "there is none to draw"


def test_an_insight_is_stored_and_drawn(tmp_path: Path, launch: BuildLaunch, open_recorder: OpenRecorder) -> None:
    recorder = open_recorder()
    recorder.record_suggestion(0, {}, {})
    metrics = {"validation_accuracy": 0.5, "validation_loss": 1.0, "generalization_gap": 0.0}
    recorder.record_epoch(0, 1, metrics, (TrialState.COMPLETED, "done"))
    recorder.close()
    outcomes = ValidationOutcomes(1, 1.0, [True, False])
    FolderStorage(tmp_path).artifacts.write(NAMES.trial(0).validation, outcomes.encode())
    spec, evaluator = ExperimentSpec(name="x"), Evaluator(pack_nothing)
    evaluator.make_insight(spec, launch())
    stored = Insight.model_validate_json(ExperimentFolder(tmp_path).insight_report.read_bytes())
    assert (stored.choice.trial, stored.sureness.validation_images) == (0, 2)
    evaluator.draw_plots(spec, launch())
    assert {path.name for path in ExperimentFolder(tmp_path).insight.iterdir()} == {"insight.json", "told_apart.png"}


def test_the_winner_is_not_evaluated_on_other_data_than_its_trials_had(
    tmp_path: Path, experiment: BuildSpec, launch: BuildLaunch
) -> None:
    spec = experiment().bind({"optimizer": 0, "optimizer[0].lr": 0.01, "batch_size": 0, "label_smoothing": 0.0})
    artifacts = FolderStorage(tmp_path).artifacts
    artifacts.write(NAMES.trial(0).spec, spec.model_dump_json().encode())
    known = report(spec.dataset, load(spec.dataset, spec.split_seed, tmp_path / "data", tmp_path / "cache"))
    for name, part in (("train", "training"), ("validation", "validation"), ("test", "test")):
        other = known.model_copy(update={f"{name}_sha256": "0" * 64})
        artifacts.write(NAMES.data_report, other.model_dump_json().encode())
        with pytest.raises(TrialError, match=f"has other data than earlier trials .*: its {part} images") as raised:
            Evaluator(pack_nothing).evaluate(launch(), 0, 1)
        assert raised.value.failure.kind is ErrorKind.DATA
        artifacts.write(NAMES.data_report, b"")
        with pytest.raises(TrialError, match=f"has other data than earlier trials .*: its {part} images"):
            Evaluator(pack_nothing).evaluate(launch(), 0, 1, other.digests())
    artifacts.write(NAMES.data_report, known.model_dump_json().encode())
    threads = torch.get_num_threads()
    assert Evaluator(pack_nothing).evaluate(launch(), 0, 1).accuracy > 0
    torch.set_num_threads(threads)


@pytest.mark.parametrize("lost", ["gone", "cut", "of another network", "of another epoch", "of an unknown epoch"])
def test_lost_weights_are_trained_again_bit_for_bit(
    tmp_path: Path, experiment: BuildSpec, launch: BuildLaunch, lost: str
) -> None:
    """The trial trains until an epoch is not the best, at a rate that makes this happen soon."""
    artifacts, files = FolderStorage(tmp_path).artifacts, NAMES.trial(3)
    trial = ExperimentFolder(tmp_path).trial(3).root
    trial.mkdir(parents=True)
    sample = {
        "optimizer": 1,
        "optimizer[1].lr": 1.0,
        "optimizer[1].momentum": 1,
        "batch_size": 0,
        "label_smoothing": 0.0,
    }
    spec = experiment(max_epochs=30).bind(sample, 3)
    (trial / "spec.json").write_text(spec.model_dump_json())
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.cpus)
    training = Training(spec, load(spec.dataset, spec.split_seed, tmp_path / "data", tmp_path / "cache"))
    while training.best_epoch == training.epoch:
        artifacts.write(
            files.best, checkpoints.encoded({"epoch": training.epoch, "model": training.model.state_dict()})
        )
        training.run_epoch()
    assert 0 < training.best_epoch < 30
    packed: list[dict[str, torch.Tensor]] = []
    evaluator = Evaluator(
        lambda network, description, example, folder: packed.append(copy.deepcopy(network.state_dict()))
    )
    packed.clear()  # of the first packing, when it was made
    figures = [evaluator.evaluate(launch(), 3, training.best_epoch)]
    content = (trial / BEST).read_bytes()
    if lost == "gone":
        (trial / BEST).unlink()
    elif lost == "cut":
        (trial / BEST).write_bytes(content[: len(content) // 2])
    elif lost == "of another network":
        artifacts.write(
            files.best, checkpoints.encoded({"epoch": training.best_epoch, "model": {"weight": torch.zeros(1)}})
        )
    elif lost == "of another epoch":  # written by a process that was left behind
        artifacts.write(
            files.best, checkpoints.encoded({"epoch": training.epoch, "model": training.model.state_dict()})
        )
    else:
        artifacts.write(files.best, checkpoints.encoded(training.model.state_dict()))
    figures.append(evaluator.evaluate(launch(), 3, training.best_epoch))
    torch.set_num_threads(threads)
    assert figures[0] == figures[1]
    assert all(torch.equal(packed[0][name], packed[1][name]) for name in packed[0])
    last = training.model.state_dict()
    assert any(not torch.equal(last[name], value) for name, value in weights_of(packed[0], last).items())


def test_the_packed_model_predicts_raw_images(
    tmp_path: Path,
    experiment: BuildSpec,
    launch: BuildLaunch,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])  # MLflow adds the code packed with a model
    trial = ExperimentFolder(tmp_path).trial(0).root
    trial.mkdir(parents=True)
    spec = experiment().bind({"optimizer": 0, "optimizer[0].lr": 0.01, "batch_size": 0, "label_smoothing": 0.0})
    (trial / "spec.json").write_text(spec.model_dump_json())
    threads = torch.get_num_threads()
    score = Evaluator().evaluate(launch(), 0, 1)
    accuracy = score.accuracy
    torch.set_num_threads(threads)
    stored = Scores.model_validate_json(ExperimentFolder(tmp_path).scores.read_bytes())
    assert (stored.trial, stored.test.accuracy) == (0, accuracy)
    assert stored.test.confusion is not None
    assert sum(map(sum, stored.test.confusion)) == stored.test.images
    assert sum(row[label] for label, row in enumerate(stored.test.confusion)) == round(accuracy * stored.test.images)
    assert len(stored.classes) == len(stored.validation.recall) == len(stored.test.confusion)
    assert score.more["test_balanced_accuracy"] == stored.test.balanced_accuracy
    assert "packing" not in caplog.text
    images, labels = load(spec.dataset, spec.split_seed, tmp_path / "data", tmp_path / "cache").test()
    plain = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert images.dtype == torch.uint8
    np.testing.assert_array_equal(plain.input_example, images[:2].numpy())
    logits = torch.from_numpy(plain.predict(images.numpy()))
    assert (logits.argmax(1) == labels).float().mean().item() == pytest.approx(accuracy)
    network = plain.get_raw_model()
    with torch.inference_mode():
        torch.testing.assert_close(network(images), logits)
        torch.testing.assert_close(network(images.float()), logits)


def test_a_first_packing_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    Evaluator(fail)
    assert "No space left on device" in caplog.text


def test_an_error_has_its_kind(launch: BuildLaunch) -> None:
    """The trial's spec is missing."""
    with pytest.raises(TrialError, match="FileNotFoundError") as raised:
        Evaluator(pack_nothing).evaluate(launch(), 0, 1)
    assert raised.value.failure.kind is ErrorKind.CODE


def weights_of(packed: dict[str, torch.Tensor], network: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The network's own weights in what a classifier holds."""
    return {name: packed[key] for name in network for key in packed if key.endswith(name)}
