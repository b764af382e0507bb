"""Evaluation: the best trial's best weights, evaluated once on the test set and packed as a model.

Owns the result on the test set that an experiment reports, and what the packed model says of the data set. The
evaluation runs in a Ray actor with a trial's resources and only writes files; the driver registers them. It must not
know the service.
"""

from __future__ import annotations

import copy
import logging
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from search_spaces.experiment import ExperimentSpec
from search_spaces.layout import NAMES
from search_spaces.phrases import counted
from search_spaces.protocol import RETRYABLE, ErrorKind, LaunchConfig, finite_or_none
from search_spaces.scores import Scores, SplitScores
from search_spaces.storage.base import ArtifactStore, open_storage, read_document
from search_spaces.stored import read_trial_spec
from workers.failures import from_ray
from workers.failures.classification import TrialError, classified
from workers.nodes import Nodes, on_node, using_storage
from workers.state import checkpoints
from workers.tracking.environment import prepare_import
from workers.trial import agreed_data, device
from workers.trial.shared_memory import MemoryShare

if TYPE_CHECKING:
    from search_spaces.experiment import TrialSpec
    from workers.data.splits import Splits
    from workers.models.predictor import ModelDescription
    from workers.training.scores import Scores as TrainingScores
    from workers.trial.parallel_training import AnyTraining

log = logging.getLogger(__name__)

POLL_S = 1.0  # between two checks whether a stop is requested


class EvaluationFailedError(Exception):
    """The process that evaluates the winner was lost or ran out of memory too often."""


class StopRequestedError(Exception):
    """The service requested a stop before the winner was evaluated."""


@dataclass(frozen=True)
class WinnerScore:
    """Mean cross-entropy in nats, and accuracy as a share in [0, 1], on the test set. `more`: other metrics by name,
    as fields of `Winner`."""

    loss: float
    accuracy: float
    more: Mapping[str, float] = field(default_factory=dict)


class WinnerEvaluation:
    """A process with a trial's resources, started before it is needed so that its imports overlap the search.

    `evaluator` is the class that does the work in that process. Unless it is `reused`, the process ends with the
    evaluation, and another one makes the insight and the plots: a plugin may change its process.
    """

    def __init__(
        self,
        resources: dict[str, float],
        nodes: Nodes,
        evaluator: Callable[[], Any] | None = None,
        *,
        reused: bool = True,
    ) -> None:
        self._resources = resources
        self._reused = reused
        self._nodes = nodes
        self._evaluator = evaluator or Evaluator
        self._actor: Any = None

    def prepare(self) -> None:
        """Start the process now, unless it would take a GPU that a trial waits for."""
        if not self._resources["GPU"]:
            self._start()

    def evaluate(
        self,
        number: int,
        epochs: int,
        launch: LaunchConfig,
        agreed: Mapping[str, str] | None = None,
        *,
        max_restarts: int,
        stop_requested: Callable[[], bool],
    ) -> WinnerScore:
        """`Evaluator.evaluate` in that process, again in a new one after a retryable failure, `max_restarts` times.

        The loss of a process that was started early is not counted: it may have died while it waited. Nor is that its
        share of a GPU has too little memory: then it gets a GPU for itself. Raises
        StopRequestedError when `stop_requested` says so meanwhile, EvaluationFailedError, and TrialError for a failure
        that would occur again.
        """
        restarts, waited = 0, self._actor is not None
        while True:
            self._start()
            gpus = self._resources["GPU"]
            task = self._actor.evaluate.remote(launch, number, epochs, agreed, gpus if 0 < gpus < 1 else 1.0)
            try:
                while not ray.wait([task], timeout=POLL_S)[0]:
                    if stop_requested():
                        raise StopRequestedError
                result: WinnerScore = ray.get(task)
                if self._resources["GPU"] or not self._reused:  # nothing that follows needs the GPU
                    self._end()
                return result
            except StopRequestedError:
                self._end()
                raise
            except Exception as error:
                self._end()
                failure = from_ray.classify(error, str(error))
                if failure.node:
                    self._nodes.exclude(failure)
                    if self._nodes.any_left(self._resources):
                        continue
                    raise TrialError(failure.kind, self._nodes.reason()) from error
                if failure.exceeds_share:
                    log.warning("the winner is evaluated on a GPU for itself: %s", failure.reason)
                    self._resources = self._resources | {"GPU": 1.0}
                    continue
                if failure.kind not in RETRYABLE:
                    raise TrialError(failure.kind, failure.reason) from error
                if waited and failure.kind is ErrorKind.LOST:
                    waited = False
                    log.warning("the process that waited for the winner is lost: %s", failure.reason)
                    continue
                count = counted(restarts, "restart")
                if restarts >= max_restarts:
                    raise EvaluationFailedError(
                        f"the winner could not be evaluated, {failure.kind} after {count}: {failure.reason}"
                    ) from error
                log.warning("the winner is evaluated again, %s after %s: %s", failure.kind, count, failure.reason)
                restarts += 1

    def make_insight(self, spec: ExperimentSpec, launch: LaunchConfig, timeout_s: float) -> None:
        """`Evaluator.make_insight` in that process. Raises what it raises, and GetTimeoutError."""
        self._start(gpus=0)
        try:
            task = self._actor.make_insight.remote(spec, launch)
            ray.get(task, timeout=timeout_s)
        except Exception:
            self._end()
            raise

    def draw_plots(self, spec: ExperimentSpec, launch: LaunchConfig, timeout_s: float) -> None:
        """`Evaluator.draw_plots` in that process, which then ends. Raises what it raises, and GetTimeoutError."""
        self._start(gpus=0)
        try:
            task = self._actor.draw_plots.remote(spec, launch)
            ray.get(task, timeout=timeout_s)
        finally:
            self._end()
            open_storage(launch.storage).artifacts.discard_unfinished(NAMES.plots)

    def _start(self, gpus: float | None = None) -> None:
        if self._actor is None:
            # Without a GPU it waits for no slot: the last trials leave cores idle, and imports are most of its work.
            remote: Any = ray.remote(
                num_cpus=0,
                num_gpus=self._resources["GPU"] if gpus is None else gpus,
                label_selector=self._nodes.selector(),
            )
            self._actor = remote(self._evaluator).remote()

    def _end(self) -> None:
        ray.kill(self._actor)
        self._actor = None


#: `pack(classifier, description, example, folder)`: see `save_model`.
Pack = Callable[[Any, "ModelDescription", Any, Path], None]


def _save_model(*arguments: Any) -> None:
    from workers.winner.model_package import save_model  # it imports torch, which the driver does not need

    save_model(*arguments)


class Evaluator:
    """The evaluation itself, without Ray. What is slow the first time is done when it is made, during the search."""

    def __init__(self, pack: Pack = _save_model) -> None:
        self._pack = pack
        self._warm_up()

    def evaluate(
        self,
        launch: LaunchConfig,
        number: int,
        epochs: int,
        agreed: Mapping[str, str] | None = None,
        share: float = 1.0,
    ) -> WinnerScore:
        """The test result of the best weights of trial `number`; stores the model in the experiment's storage.

        `agreed`: the digests of the data that the trials had; None if not known. `share`: the part that this process
        may use of the memory of its GPU.

        Where the weights are missing, the first `epochs` epochs are trained again, up to the best one; on a CPU this
        gives the same weights, except of a trial of an earlier version with augmentation. Raises TrialError.
        """
        memory = MemoryShare(share)
        with classified(memory.is_exceeded), on_node(launch.storage, launch.marker, launch.version):
            return self._evaluate(launch, number, epochs, agreed, memory)

    def make_insight(self, spec: ExperimentSpec, launch: LaunchConfig) -> None:
        """Store why the best trial won, and how sure that is. Raises what `insight.report.make_insight` raises."""
        from workers.insight.report import make_insight

        storage = open_storage(launch.storage)
        made = make_insight(spec, storage)
        storage.artifacts.write(NAMES.insight_report, made.model_dump_json(indent=1).encode())

    def draw_plots(self, spec: ExperimentSpec, launch: LaunchConfig) -> None:
        """Store the plots that depend on the spec, and those of the insight, in the experiment's storage."""
        from workers.data.splits import load
        from workers.plots.cli import plot_experiment

        self._draw_insight(open_storage(launch.storage).artifacts)
        roots = Path(launch.data_root), Path(launch.cache_root)
        with open_storage(launch.storage).artifacts.replace_folder(NAMES.plots) as folder:
            plot_experiment(spec, lambda: load(spec.dataset, spec.seed, *roots), folder)

    def _draw_insight(self, artifacts: ArtifactStore) -> None:
        """An error only costs these plots."""
        from search_spaces.insight import Insight
        from workers.insight.pictures import draw

        try:
            insight = Insight.model_validate_json(read_document(artifacts, NAMES.insight_report))
            with tempfile.TemporaryDirectory() as folder:
                for path in draw(insight, Path(folder)):
                    artifacts.write(NAMES.insight / path.name, path.read_bytes())
        except FileNotFoundError:
            return
        except Exception as error:
            log.warning("the plots of the insight could not be drawn: %r", error)

    def _evaluate(
        self,
        launch: LaunchConfig,
        number: int,
        epochs: int,
        agreed: Mapping[str, str] | None,
        memory: MemoryShare,
    ) -> WinnerScore:
        import torch

        from workers.training.loop import Training
        from workers.trial.parallel_training import new_training

        artifacts, trial = open_storage(launch.storage).artifacts, NAMES.trial(number)
        with using_storage(launch.storage):
            content = read_document(artifacts, trial.spec)
        spec = read_trial_spec(content)
        on = device.select_device(spec)
        memory.cap()
        torch.set_num_threads(spec.cpus)
        roots = Path(launch.data_root), Path(launch.cache_root)
        splits, _ = agreed_data.load_agreed(spec, *roots, launch.storage, agreed)
        training = Training(spec, _without_images(splits), on)
        try:
            training.model.load_state_dict(_weights(checkpoints.load(artifacts, trial.best), epochs))
        except (checkpoints.CheckpointDamagedError, OSError, RuntimeError) as error:
            log.warning("%s cannot be used, so the trial is trained again: %r", trial.best, error)
            training.model.load_state_dict(_trained_again(new_training(spec, splits, *roots, on), epochs))
        images, labels = splits.test()
        tested = training.evaluate(images, labels)
        validated = training.evaluate(splits.validation_images, splits.validation_labels)
        scores = Scores(
            trial=number,
            classes=list(splits.class_names),
            validation=split_scores(validated),
            test=split_scores(tested),
        )
        with using_storage(launch.storage):
            artifacts.write(NAMES.scores, scores.model_dump_json(indent=1).encode())
            with artifacts.replace_folder(NAMES.model) as folder:
                self._pack(training.classifier(), describe(spec, splits), images[:2].numpy(), folder)
        return WinnerScore(tested.loss, tested.accuracy, tested.metrics("test"))

    def _warm_up(self) -> None:
        """Imports, and packing, for which MLflow reads all of site-packages: 0.6 s that the winner need not wait."""
        prepare_import()
        import numpy as np
        import torch

        import workers.data.splits
        import workers.insight.report
        import workers.training.loop  # noqa: F401
        from search_spaces.models import CNN
        from search_spaces.normalization import Batch
        from workers.models.build import build_model
        from workers.models.inference import Classifier
        from workers.models.predictor import ModelDescription

        try:
            model, normalization = CNN(width=1, depth=1), Batch()
            described = ModelDescription(model.model_dump(), normalization.model_dump(), 1, 8, ("a", "b"), {})
            classifier = Classifier(build_model(model, normalization, 1, 2, 8), torch.zeros(1), torch.ones(1))
            with tempfile.TemporaryDirectory() as folder:
                self._pack(classifier.eval(), described, np.zeros((2, 1, 8, 8), np.uint8), Path(folder) / "model")
        except Exception as error:
            log.warning("the first packing of a model failed: %r", error)


def split_scores(found: TrainingScores) -> SplitScores:
    """The scores as they are stored."""
    return SplitScores(
        images=len(found.right),
        accuracy=found.accuracy,
        balanced_accuracy=found.balanced_accuracy,
        macro_f1=found.macro_f1,
        top5_accuracy=found.top5_accuracy,
        calibration_error=finite_or_none(found.calibration_error),
        recall=[None if math.isnan(share) else share for share in found.recall.tolist()],
        confusion=None if found.confusion is None else found.confusion.tolist(),
    )


def describe(spec: TrialSpec, splits: Splits) -> ModelDescription:
    """What users of a trial's model must know of it."""
    from workers.models.predictor import ModelDescription

    _, channels, _, side = splits.train_images.shape
    network = spec.hyperparameters
    return ModelDescription(
        model=network.model.model_dump(mode="json"),
        normalization=network.normalization.model_dump(mode="json"),
        channels=channels,
        image_size=side,
        class_names=splits.class_names,
        decoding=splits.decoding,
    )


def _without_images(splits: Splits) -> Splits:
    """The splits with one image each for training and validation, which give the shape. The rest is not moved."""
    first = {
        f"{part}_{what}": getattr(splits, f"{part}_{what}")[:1]
        for part in ("train", "validation")
        for what in ("images", "labels")
    }
    return replace(splits, **first)


def _weights(best: dict[str, Any], epoch: int) -> dict[str, Any]:
    """The weights of the best epoch. Raises CheckpointDamagedError for weights of another epoch, which a process that
    was left behind may have written.
    """
    if best.get("epoch") != epoch:
        raise checkpoints.CheckpointDamagedError(f"the weights must be of epoch {epoch} (got {best.get('epoch')})")
    weights: dict[str, Any] = best["model"]
    return weights


def _trained_again(training: AnyTraining, epochs: int) -> dict[str, Any]:
    """The weights of the best of the first `epochs` epochs."""
    best: dict[str, Any] = {}
    for _ in range(epochs):
        training.run_epoch()
        if training.best_epoch == training.epoch:
            best = copy.deepcopy(training.weights())
    return best
