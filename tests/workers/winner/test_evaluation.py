"""The evaluation of the winner without Ray: its weights, its score and the model that is packed."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import mlflow.pytorch
import numpy as np
import pytest
import torch

from search_spaces.experiment import ExperimentSpec
from search_spaces.layout import BEST, NAMES, ExperimentFolder
from search_spaces.models import CNN, VGG, ResNet, TorchvisionModel
from search_spaces.normalization import Batch
from search_spaces.protocol import ErrorKind
from search_spaces.storage.folder import FolderStorage
from tests.support.workers import BuildLaunch, BuildSpec
from workers.data.splits import load
from workers.failures.classification import TrialError
from workers.models.inference import Classifier
from workers.state import checkpoints
from workers.training.build import build_model
from workers.training.loop import Training
from workers.winner.evaluation import Evaluator
from workers.winner.model_package import save_model


def pack_nothing(*_: Any) -> None:
    """For tests that need no model."""


def test_the_plots_of_a_spec(tmp_path: Path, launch: BuildLaunch) -> None:
    spec = ExperimentSpec.model_validate({"name": "x", "search_space": {"augmentation": {"rotation": 9.0}}})
    Evaluator(pack_nothing).draw_plots(spec, launch())
    drawn = {path.name.partition(".")[0] for path in ExperimentFolder(tmp_path).plots.iterdir()}
    assert drawn == {"schedulers", "optimizers", "augmentation"}


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
        checkpoints.save({"epoch": training.epoch, "model": training.model.state_dict()}, artifacts, files.best)
        training.run_epoch()
    assert 0 < training.best_epoch < 30
    packed: list[dict[str, torch.Tensor]] = []
    evaluator = Evaluator(lambda network, example, folder: packed.append(copy.deepcopy(network.state_dict())))
    packed.clear()  # of the first packing, when it was made
    figures = [evaluator.evaluate(launch(), 3, training.best_epoch)]
    content = (trial / BEST).read_bytes()
    if lost == "gone":
        (trial / BEST).unlink()
    elif lost == "cut":
        (trial / BEST).write_bytes(content[: len(content) // 2])
    elif lost == "of another network":
        checkpoints.save({"epoch": training.best_epoch, "model": {"weight": torch.zeros(1)}}, artifacts, files.best)
    elif lost == "of another epoch":  # written by a process that was left behind
        checkpoints.save({"epoch": training.epoch, "model": training.model.state_dict()}, artifacts, files.best)
    else:
        checkpoints.save(training.model.state_dict(), artifacts, files.best)
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
    accuracy = Evaluator().evaluate(launch(), 0, 1).accuracy
    torch.set_num_threads(threads)
    assert "packing" not in caplog.text
    images, labels = load(spec.dataset, spec.split_seed, tmp_path / "data", tmp_path / "cache").test()
    plain = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert images.dtype == torch.uint8
    np.testing.assert_array_equal(plain.input_example, images[:2].numpy(), strict=True)
    logits = torch.from_numpy(plain.predict(images.numpy()))
    assert (logits.argmax(1) == labels).float().mean().item() == pytest.approx(accuracy)
    network = mlflow.pytorch.load_model(str(tmp_path / "model"))
    with torch.inference_mode():
        torch.testing.assert_close(network(images), logits)
        torch.testing.assert_close(network(images.float()), logits)


#: Loads the models named in the arguments and prints how many logits each gives, without Rung as it is installed here.
ELSEWHERE = """
import importlib.util, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
rung, *folders = sys.argv[1:]
sys.path += [rung] if rung else []
assert bool(importlib.util.find_spec("search_spaces")) is bool(rung)
import mlflow.pytorch, torch
for folder in folders:
    print(mlflow.pytorch.load_model(folder)(torch.zeros(2, 1, 32, 32, dtype=torch.uint8)).shape[1])
if rung:
    import service.client, workers.training.loop
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Folders of packed models with 5, 6, 7 and 8 classes."""
    specs = (CNN(width=4), VGG(width=4), ResNet(width=4), TorchvisionModel(name="squeezenet1_1"))
    folders = []
    for classes, spec in enumerate(specs, start=5):
        classifier = Classifier(build_model(spec, Batch(), 1, classes, 32), torch.zeros(1), torch.ones(1)).eval()
        folders.append(str(tmp_path_factory.mktemp("packed") / spec.kind))
        save_model(classifier, np.zeros((2, 1, 32, 32), np.uint8), Path(folders[-1]))
    return folders


@pytest.mark.parametrize("rung", ["", str(Path(__file__).parents[3])], ids=["without", "beside"])
def test_a_packed_model_is_loaded_without_rung_and_beside_it(packed: list[str], tmp_path: Path, rung: str) -> None:
    command = [sys.executable, "-I", "-c", ELSEWHERE, rung, *packed]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["5", "6", "7", "8"]), done.stderr


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
