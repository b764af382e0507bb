"""Driver: one attempt at one experiment, from its stored spec to its registered winner.

`python -m workers.driver FOLDER ATTEMPT` is the entry point of a Ray job. It wires searcher, ASHA, journal,
heartbeat and tracking around Ray Tune; each of those owns its own work.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import ray

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import Launch, TrialState, Winner
from workers import quick_start
from workers.conductor import Conductor, Ending
from workers.finalist import Finalist
from workers.heartbeat import Heart, Superseded
from workers.progress import Progress
from workers.searcher import Searcher
from workers.tracking import Tracker, refused
from workers.trial import Slot

log = logging.getLogger("rung.driver")
T = TypeVar("T")

JOURNAL = "journal.jsonl"
SERVICE_PATIENCE_S = 60.0
PICTURES_PATIENCE_S = 60.0
MLFLOW_PATIENCE_S = 300.0
PARENT_STATUS = {"completed": "FINISHED", "canceled": "KILLED", "failed": "FAILED"}


def drive(launch: Launch, spec: ExperimentSpec) -> bool:
    """Run the experiment to its end, or until ordered otherwise. False when this attempt failed or was fenced.

    An exception is no verdict on the experiment: the service hears that this attempt stopped and why, and
    begins another, a few times at most.
    """
    folder = Path(launch.storage)
    progress = Progress(folder / JOURNAL, spec.objective, launch.attempt)
    tracker = Tracker(launch, spec, folder / JOURNAL, fenced=lambda: heart.fenced)
    heart = Heart(launch, progress, tracker.ids)
    conductor = Conductor(spec, progress, lambda: heart.orders, lambda: heart.fenced, heart.wake)
    heart.start()
    tracker.start()
    winner, failed = None, False
    try:
        heart.phase = "searching"
        finalist = _search(launch, spec, progress, conductor)
        ending = conductor.ending or _natural_ending(progress, spec.num_samples)
        if ending.phase == "completed":
            heart.phase = "finalizing"
            heart.wake()
            winner = _crown(launch, progress, tracker, finalist)
        if ending.phase not in {"paused", "fenced"}:
            _close(tracker, progress, ending, winner)
    except Exception as error:
        log.exception("the driver failed")
        ending, winner, failed = Ending("paused", _sentence(error)), None, True
    finally:
        progress.close()
    if heart.fenced or ending.phase == "fenced":
        return False
    heart.last(ending.phase, ending.reason, winner, SERVICE_PATIENCE_S)
    if winner is not None:
        _illustrate(launch, spec, tracker, finalist)
    return not failed and ending.phase != "failed"


def _search(launch: Launch, spec: ExperimentSpec, progress: Progress, conductor: Conductor) -> Finalist:
    """Run trials until the searcher has no more or the conductor ends the search. Gives the waiting finalist."""
    from ray import tune

    resources = {"CPU": float(spec.resources.cpus_per_trial), "GPU": float(spec.resources.gpus_per_trial or 0)}
    finalist = Finalist(resources)
    searcher = Searcher(
        spec,
        progress,
        Path(launch.storage) / "trials",
        roots={"data_root": launch.data_root, "cache_root": launch.cache_root},
        num_samples=spec.num_samples,
        slots=conductor.slots,
        on_last=finalist.prepare,
    )
    conductor.conduct(searcher)
    if searcher.exhausted():
        return finalist
    # tune.run, not Tuner: a Tuner pickles searcher and scheduler at once, for a restore that the journal replaces.
    tune.run(
        Slot,
        name=f"tune-a{launch.attempt}",
        storage_path=launch.storage,
        resources_per_trial=tune.PlacementGroupFactory([{name: share for name, share in resources.items() if share}]),
        num_samples=10**9,  # the searcher says when it has no more
        search_alg=searcher,
        scheduler=conductor.asha,
        callbacks=[conductor],
        reuse_actors=True,
        raise_on_failed_trial=False,
        trial_dirname_creator=lambda trial: trial.trial_id,
        verbose=0,
    )
    return finalist


def _natural_ending(progress: Progress, num_samples: int) -> Ending:
    """How a search ends that nobody ended: a failure when no trial has a value, a pause when trials are missing."""
    ended = sum(trial.ended for trial in progress.trials.values())
    if ended < num_samples:
        return Ending("paused", f"the search was interrupted: {ended} of {num_samples} trials have ended")
    if progress.best() is None:
        reasons = [trial.stop_reason for trial in progress.trials.values() if trial.state == TrialState.ERROR]
        if reasons:
            return Ending("failed", f"no trial has a value and {len(reasons)} failed; the first: {reasons[0]}")
        return Ending("completed", "no trial has a finite value: all diverged")
    return Ending()


def _crown(launch: Launch, progress: Progress, tracker: Tracker, finalist: Finalist) -> Winner | None:
    """Measure the best trial on the test set, log and register its model. None when no trial has a value."""
    best = progress.best()
    if best is None or best.best_value is None:
        return None
    if progress.winner is not None and progress.winner.trial == best.number and progress.winner.model_uri:
        return progress.winner
    folder = Path(launch.storage)
    loss, accuracy = finalist.judge(
        folder / "trials" / f"{best.number:05d}", folder / "model", Path(launch.data_root), Path(launch.cache_root)
    )
    winner = Winner(trial=best.number, value=best.best_value, test_accuracy=accuracy, test_loss=loss)
    _deliver(tracker)
    uri = _patiently(lambda: tracker.register(folder / "model", winner))
    winner = winner.model_copy(update={"model_uri": uri})
    progress.won(winner)
    return winner


def _close(tracker: Tracker, progress: Progress, ending: Ending, winner: Winner | None) -> None:
    """End what has not ended, deliver what MLflow lacks and end the parent run with its summary."""
    for trial in list(progress.trials.values()):
        progress.ended(trial.number, TrialState.CANCELED, ending.reason or "the search ended before it")
    _deliver(tracker)
    summary: dict[str, float] = {f"trials_{state.lower()}": count for state, count in progress.counts().items()}
    tags = {"rung.state": ending.phase.upper(), "rung.reason": ending.reason}
    best = progress.best()
    if best is not None and best.best_value is not None:
        summary |= {"best_value": best.best_value, "best_trial": best.number}
        tags |= {"rung.best_trial": str(best.number), "rung.best_run_id": tracker.ids().runs[best.number]}
    if winner is not None:
        summary |= {"test_accuracy": winner.test_accuracy, "test_loss": winner.test_loss}
        tags["rung.model"] = winner.model_uri or ""
    _patiently(lambda: tracker.close_parent(PARENT_STATUS[ending.phase], summary, tags))


def _illustrate(launch: Launch, spec: ExperimentSpec, tracker: Tracker, finalist: Finalist) -> None:
    """Attach the pictures that depend on the spec, now that nobody waits. A failure is of no consequence."""
    folder = Path(launch.storage) / "pictures"
    try:
        finalist.illustrate(spec, folder, Path(launch.data_root), Path(launch.cache_root), PICTURES_PATIENCE_S)
        tracker.attach(folder)
    except Exception as error:
        log.warning("no pictures: %r", error)


def _deliver(tracker: Tracker) -> None:
    if not tracker.finish(MLFLOW_PATIENCE_S):
        raise TimeoutError(
            f"MLflow did not answer for {MLFLOW_PATIENCE_S:g} s; the curves are kept in the journal and "
            "delivered by the next attempt"
        )


def _patiently(action: Callable[[], T]) -> T:
    """What `action` gives; tried again while MLflow is away. Raises what it raised last."""
    deadline, pause = time.monotonic() + MLFLOW_PATIENCE_S, threading.Event()
    while True:
        try:
            return action()
        except Exception as error:
            if isinstance(error, Superseded) or refused(error) or time.monotonic() >= deadline:
                raise
            log.warning("MLflow did not answer, asking again: %r", error)
            pause.wait(1.0)


def _sentence(error: Exception) -> str:
    """What went wrong, without the traceback that Tune puts into its errors."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {said[-1][:500] if said else 'without a word'}"


def main(arguments: list[str]) -> int:
    """Exit status 0: ended as the service will be told. 1: this attempt failed, or another took over."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("ray.tune.analysis").setLevel(logging.ERROR)  # it looks for result files, which we do not write
    folder, attempt = Path(arguments[0]), int(arguments[1])
    launch = Launch.model_validate_json((folder / f"launch-a{attempt}.json").read_text())
    spec = ExperimentSpec.model_validate_json((folder / "spec.json").read_text())
    quick_start.prepare(launch.slots)
    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False, logging_level=logging.WARNING)
    return 0 if drive(launch, spec) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
