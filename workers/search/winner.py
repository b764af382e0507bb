"""WinnerEvaluation: the best trial's best weights, measured once on the test set and packed as a model.

Owns the only reading of the test set, and the folder that becomes the MLflow model: raw images in, logits
out, input normalization inside. It runs as a Ray actor with a trial's resources and writes files alone; the
driver registers them. It must not know the service.
"""

from __future__ import annotations

import copy
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

import search_spaces
import workers
from search_spaces.experiment import ExperimentSpec, TrialSpec
from search_spaces.protocol import RETRYABLE, ErrorKind
from workers.search import failures
from workers.state import checkpoints
from workers.state.checkpoints import BEST
from workers.trial import device
from workers.trial.worker import SPEC

if TYPE_CHECKING:
    from workers.data.splits import Splits
    from workers.training.loop import Training

log = logging.getLogger("rung.winner")

LOOK_S = 1.0  # between two looks at the orders
#: What of Rung goes with a model.
PACKED = {
    search_spaces: ("models.py", "normalization.py", "domains.py", "spec.py"),
    workers: ("models/*.py",),
}
#: The beginning of each packed package: MLflow puts it before an installed Rung, whose other modules stay importable.
BESIDE = '__path__ = __import__("pkgutil").extend_path(__path__, __name__)\n'


class EvaluationFailedError(Exception):
    """The winner's process was lost or ran out of memory as often as may be."""


class StopRequestedError(Exception):
    """A stop was ordered before the winner was measured."""


class WinnerEvaluation:
    """A process with a trial's resources, asked for before it is needed so that its imports overlap the search."""

    def __init__(self, resources: dict[str, float]) -> None:
        self._resources = resources
        self._actor: Any = None

    def prepare(self) -> None:
        """Start the process ahead of time, unless it would take a GPU that a trial waits for."""
        if not self._resources["GPU"]:
            self._start()

    def evaluate(
        self,
        trial: Path,
        epochs: int,
        model: Path,
        data_root: Path,
        cache_root: Path,
        *,
        max_restarts: int,
        ordered: Callable[[], bool],
    ) -> tuple[float, float]:
        """`Evaluator.evaluate` in that process, and in a new one after a failure that may pass, `max_restarts` times.

        That a process which was started ahead of time is lost does not count: it may have been while it waited.
        `ordered` is asked meanwhile whether a stop is. Raises StopRequestedError, EvaluationFailedError, and what
        `Evaluator.evaluate` raises.
        """
        restarts, waited = 0, self._actor is not None
        while True:
            self._start()
            task = self._actor.evaluate.remote(trial, epochs, model, data_root, cache_root)
            try:
                while not ray.wait([task], timeout=LOOK_S)[0]:
                    if ordered():
                        raise StopRequestedError
                loss, accuracy = ray.get(task)
                return loss, accuracy
            except Exception as error:
                self._end()
                failure = failures.classify(error, str(error))
                if isinstance(error, StopRequestedError) or failure.kind not in RETRYABLE:
                    raise
                if waited and failure.kind is ErrorKind.LOST:
                    waited = False
                    log.warning("the process that waited for the winner is lost: %s", failure.reason)
                    continue
                said = f"{failure.kind} after {restarts} restart{'s' * (restarts != 1)}: {failure.reason}"
                if restarts >= max_restarts:
                    raise EvaluationFailedError(f"the winner could not be measured, {said}") from error
                log.warning("the winner is measured again, %s", said)
                restarts += 1

    def illustrate(
        self, spec: ExperimentSpec, out: Path, data_root: Path, cache_root: Path, patience_s: float
    ) -> list[Path]:
        """`Evaluator.illustrate` in that process, which ends then. Raises what it raises, and GetTimeoutError."""
        self._start()
        try:
            drawn: list[Path] = ray.get(
                self._actor.illustrate.remote(spec, out, data_root, cache_root), timeout=patience_s
            )
        finally:
            self._end()
        return drawn

    def _start(self) -> None:
        if self._actor is None:
            # Without a GPU it waits for no slot: the last trials leave cores idle, and imports are most of its work.
            remote = ray.remote(num_cpus=0, num_gpus=self._resources["GPU"])(Evaluator)
            self._actor = remote.remote()

    def _end(self) -> None:
        ray.kill(self._actor)
        self._actor = None


class Evaluator:
    """The finalist's work itself, without Ray."""

    def __init__(self) -> None:
        warm_up()  # here, not in `evaluate`: the search is still going on

    def evaluate(self, trial: Path, epochs: int, model: Path, data_root: Path, cache_root: Path) -> tuple[float, float]:
        """Test loss and accuracy of the best weights in the folder `trial`; saves the model in the folder `model`.

        Accuracy is a share in [0, 1], loss the mean cross-entropy in nats. Where the weights are gone, the
        first `epochs` are trained again, up to the best, which on a CPU gives the same weights.
        """
        import torch

        from workers.data.splits import load
        from workers.training.loop import Training

        spec = TrialSpec.model_validate_json((trial / SPEC).read_text())
        on = device.select_device(spec)
        torch.set_num_threads(spec.cpus)
        splits = load(spec.dataset, spec.split_seed, data_root, cache_root)
        training = Training(spec, _without_images(splits), on)
        try:
            training.model.load_state_dict(_weights(checkpoints.load(trial / BEST), epochs))
        except (checkpoints.CheckpointDamagedError, OSError, RuntimeError) as error:
            log.warning("%s cannot be used, the trial is trained again: %r", trial / BEST, error)
            training = Training(spec, splits, on)
            training.model.load_state_dict(_trained_again(training, epochs))
        images, labels = splits.test()
        loss, accuracy = training.evaluate(images, labels)
        _save(training.classifier(), images[:2].numpy(), model)
        return loss, accuracy

    def illustrate(self, spec: ExperimentSpec, out: Path, data_root: Path, cache_root: Path) -> list[Path]:
        """The pictures that depend on the spec, in the folder `out`."""
        from workers.data.splits import load
        from workers.plots.cli import plot_experiment

        return plot_experiment(spec, lambda: load(spec.dataset, spec.seed, data_root, cache_root), out)


def warm_up() -> None:
    """Do once what is slow the first time in a process: imports, and packing, where MLflow reads all of site-packages.

    After it the winner of a small experiment is judged in 30 ms instead of 0.6 s. A failure is of no consequence.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when MLflow is imported
    import numpy as np
    import torch

    import workers.data.splits
    import workers.training.loop  # noqa: F401

    try:
        with tempfile.TemporaryDirectory() as folder:
            _save(torch.nn.Flatten(), np.zeros((2, 1, 1, 1), np.uint8), Path(folder) / "model")
    except Exception as error:
        log.warning("the rehearsal failed: %r", error)


def _without_images(splits: Splits) -> Splits:
    """All but the images of training and validation, of which one stays to tell the shape: they need not be moved."""
    one = {
        f"{part}_{what}": getattr(splits, f"{part}_{what}")[:1]
        for part in ("train", "validation")
        for what in ("images", "labels")
    }
    return replace(splits, **one)


def _weights(best: dict[str, Any], epoch: int) -> dict[str, Any]:
    """Those of the best epoch. A process of an earlier attempt may have written another's.

    Raises CheckpointDamagedError.
    """
    if best.get("epoch") != epoch:
        raise checkpoints.CheckpointDamagedError(f"weights of epoch {epoch} required, got those of {best.get('epoch')}")
    weights: dict[str, Any] = best["model"]
    return weights


def _trained_again(training: Training, epochs: int) -> dict[str, Any]:
    """The weights of the best of so many epochs."""
    best: dict[str, Any] = {}
    for _ in range(epochs):
        training.run_epoch()
        if training.best_epoch == training.epoch:
            best = copy.deepcopy(training.model.state_dict())
    return best


def _save(classifier: Any, example: Any, folder: Path) -> None:
    """Pack a network for images such as `example`, (N, C, H, W): raw ones are uint8 in 0..255, and so its signature."""
    import mlflow.pytorch
    import torch
    from mlflow.models import infer_signature

    with torch.inference_mode():
        logits = classifier(torch.from_numpy(example)).numpy()
    signature = infer_signature(example, logits)
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as code:
        mlflow.pytorch.save_model(
            classifier,
            folder,
            signature=signature,
            input_example=example,
            code_paths=_code(Path(code)),
            pip_requirements=[
                f"{name}=={version(name)}" for name in ("mlflow", "torch", "torchvision", "pydantic", "numpy")
            ],
            serialization_format="pickle",
        )


def _code(folder: Path) -> list[str]:
    """Copies of what a pickled network needs to be loaded where Rung is not installed; each file is an upload."""
    for package, patterns in PACKED.items():
        root = Path(package.__path__[0])
        for source in (found for pattern in patterns for found in root.glob(pattern)):
            target = folder / root.name / source.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
        (folder / root.name / "__init__.py").write_text(BESIDE)
    return [str(path) for path in folder.iterdir()]
