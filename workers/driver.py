"""Driver: one attempt at one experiment, from its stored spec to its registered winner.

`python -m workers.driver FOLDER ATTEMPT` is the entry point of a Ray job. It wires searcher, ASHA, journal,
heartbeat and tracking around Ray Tune; each of those owns its own work.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import ray

from search_spaces.controls import Controls
from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import PARENT_RUN_STATUS, LaunchConfig, Tag, Winner, trial_folder
from workers.heartbeat import HeartbeatThread, NoLines
from workers.ray_patches import out_of_memory, startup
from workers.search import continuation, failures, stop_conditions
from workers.search.searcher import Searcher
from workers.search.stop_conditions import Outcome
from workers.search.tune_callbacks import TuneCallback
from workers.search.winner import EvaluationFailedError, StopRequestedError, WinnerEvaluation
from workers.state import journal
from workers.state.recorder import Recorder
from workers.tracking.connection import SupersededError, is_outage, is_permanent
from workers.tracking.cursor import MlflowIds
from workers.tracking.retry import OUTAGE_LIMIT_S, DeliveryAbandonedError, Retrier
from workers.tracking.tracker import Tracker
from workers.trial import logs
from workers.trial.worker import TrialWorker

log = logging.getLogger("rung.driver")

JOURNAL = "journal.jsonl"
SERVICE_PATIENCE_S = 60.0
PICTURES_PATIENCE_S = 60.0
REFUSALS_S = 300.0  # of an MLflow that answers, but not as it should


def drive(launch: LaunchConfig, spec: ExperimentSpec) -> bool:
    """Run the experiment to its end, or until ordered otherwise. False when this attempt failed or was fenced.

    An exception is no verdict on the experiment: the service hears that this attempt stopped and why, and
    begins another, a few times at most; none where a full disk was behind it, before a person acts.
    """
    launch = launch.model_copy(update={"controls": launch.controls or Controls.of(spec)})
    folder = Path(launch.storage)
    if launch.trials and not any(file.exists() for file in (folder / JOURNAL, journal.copy_of(folder / JOURNAL))):
        return _refuse(launch, stop_conditions.missing_journal(launch.storage, launch.trials))
    try:
        recorder = Recorder(folder / JOURNAL, spec.objective, launch.attempt)
    except journal.WriterFencedError as overtaken:
        log.warning("%s", overtaken)
        return False
    except OSError as error:
        why = f"the journal cannot be opened: {error}"
        return _refuse(
            launch, stop_conditions.disk_full(why) if failures.is_disk_full(error) else Outcome("paused", why)
        )
    tracker = Tracker(launch, spec, folder / JOURNAL, fenced=lambda: heartbeat.fenced)
    heartbeat = HeartbeatThread(launch, recorder, tracker.ids)
    retrier = _retrier(heartbeat, tracker)
    heartbeat.start()
    winner, failed, obeyed = None, False, None
    try:
        if launch.source and not recorder.table.trials:
            taken = continuation.import_trials(Path(launch.source), JOURNAL, folder / "trials", recorder)
            log.info("%s trials are taken over from %s", taken, launch.source)
        log.info("attempt %d of %s begins with %d trials known", launch.attempt, spec.name, len(recorder.table.trials))
        if lost := max(0, launch.trials - len(recorder.table.trials)):
            log.warning("%d of %d trials were lost with the journal's end: proposed again", lost, launch.trials)
        callback = TuneCallback(spec, recorder, lambda: heartbeat.orders, lambda: heartbeat.fenced, heartbeat.wake)
        tracker.start()
        heartbeat.phase = "searching"
        finalist = _search(launch, spec, recorder, callback)
        over, obeyed = callback.outcome or stop_conditions.exhausted(recorder, callback.num_samples()), callback.obeyed
        log.info("the search is over, %s: %s", over.phase, over.reason or "every trial has ended")
        try:
            if over.phase == "completed":
                heartbeat.phase = "finalizing"
                tracker.wake()
                heartbeat.wake()
                try:
                    winner = _finalize_winner(launch, recorder, tracker, finalist, retrier, obeyed.max_restarts)
                except EvaluationFailedError as unmeasured:
                    over = replace(over, reason="; ".join(filter(None, (over.reason, str(unmeasured)))))
                except StopRequestedError:
                    over = stop_conditions.requested(heartbeat.orders, heartbeat.fenced) or over
            if over.phase not in {"paused", "fenced"}:
                _close(tracker, recorder, over, winner, retrier)
                callback.prune_checkpoints(folder / "trials", recorder.table.trials)
        except DeliveryAbandonedError as unheard:
            said = stop_conditions.requested(heartbeat.orders, heartbeat.fenced)
            if said is None:
                raise
            over = Outcome(said.phase, f"{said.reason}; {unheard}")
    except (SupersededError, journal.WriterFencedError) as overtaken:
        log.warning("%s", overtaken)
        over = Outcome("fenced", str(overtaken))
    except continuation.SourceMissingError as missing:
        over, failed = Outcome("paused", str(missing), blocked=True), True
    except Exception as error:
        log.exception("the driver failed")
        over, winner, failed = Outcome("paused", _sentence(error)), None, True
        if failures.is_disk_full(error):
            over = stop_conditions.disk_full(_sentence(error))
    finally:
        recorder.close()
        tracker.stop()
        if winner is None or over.phase != "completed":
            tracker.close()  # before the last word, after which another attempt may write
    if heartbeat.fenced or over.phase == "fenced":
        return False
    for number in recorder.table.trials:
        recorder.record_release(number, journaled=False)  # whatever became of Tune, its slots are gone
    heartbeat.send_final(over.phase, over.reason, winner, SERVICE_PATIENCE_S, blocked=over.blocked, controls=obeyed)
    if winner is not None and over.phase == "completed":
        _illustrate(launch, spec, tracker, finalist)
        tracker.close()
    return not failed and over.phase != "failed"


def _refuse(launch: LaunchConfig, over: Outcome) -> bool:
    """Say why nothing is begun, and write nothing: a journal in the wrong folder would pass for the experiment's."""
    log.error("%s", over.reason)
    heartbeat = HeartbeatThread(launch, NoLines(), lambda: MlflowIds(None, None, {}))
    heartbeat.send_final(over.phase, over.reason, None, SERVICE_PATIENCE_S, blocked=over.blocked)
    return not heartbeat.fenced


def _retrier(heartbeat: HeartbeatThread, tracker: Tracker) -> Retrier:
    """Waits for MLflow, and lets the service know."""

    def on_wait(why: str) -> None:
        if why != heartbeat.reason:
            heartbeat.reason = why
            heartbeat.wake()

    def retry_window_s(error: Exception) -> float:
        if isinstance(error, SupersededError | journal.JournalDamagedError) or is_permanent(error):
            return 0.0
        return OUTAGE_LIMIT_S if is_outage(error) else REFUSALS_S

    return Retrier(
        stop_requested=lambda: heartbeat.fenced or heartbeat.orders.stop is not None,
        answered_at=lambda: tracker.answered_at,
        on_wait=on_wait,
        retry_window_s=retry_window_s,
    )


def _search(launch: LaunchConfig, spec: ExperimentSpec, recorder: Recorder, callback: TuneCallback) -> WinnerEvaluation:
    """Run trials until the searcher has no more or the callback ends the search. Gives the waiting finalist."""
    from ray import tune

    resources = {"CPU": float(spec.resources.cpus_per_trial), "GPU": float(spec.resources.gpus_per_trial or 0)}
    finalist = WinnerEvaluation(resources)
    _sweep(launch)
    while True:
        searcher = Searcher(
            spec,
            recorder,
            Path(launch.storage) / "trials",
            roots={"data_root": launch.data_root, "cache_root": launch.cache_root},
            num_samples=callback.num_samples,
            slots=callback.slots,
            on_last=finalist.prepare,
        )
        callback.attach(searcher)
        if searcher.exhausted():
            return finalist
        # tune.run, not Tuner: a Tuner pickles searcher and scheduler at once, for a restore that the journal replaces.
        with out_of_memory.oom_as_actor_failure():
            tune.run(
                TrialWorker,
                name=f"tune-a{launch.attempt}",
                storage_path=launch.storage,
                resources_per_trial=tune.PlacementGroupFactory(
                    [{name: share for name, share in resources.items() if share}]
                ),
                num_samples=10**9,  # the searcher says when it has no more
                search_alg=searcher,
                scheduler=callback.asha,
                callbacks=[callback],
                reuse_actors=True,
                raise_on_failed_trial=False,
                trial_dirname_creator=lambda trial: trial.trial_id,
                verbose=0,
            )
        _sweep(launch)
        if callback.outcome or not searcher.done:
            return finalist
        # Once more for trials that were asked for while Tune was closing down.


def _sweep(launch: LaunchConfig) -> None:
    """Remove what Tune keeps of each of its runs: the journal replaces it. A later attempt's are not ours."""
    for attempt in range(1, launch.attempt + 1):
        shutil.rmtree(Path(launch.storage) / f"tune-a{attempt}", ignore_errors=True)


def _finalize_winner(
    launch: LaunchConfig,
    recorder: Recorder,
    tracker: Tracker,
    finalist: WinnerEvaluation,
    retrier: Retrier,
    max_restarts: int,
) -> Winner | None:
    """Measure the best trial on the test set, log and register its model. None when no trial has a value.

    The winner of an earlier ending stays where no better trial was found since. Raises StopRequestedError,
    EvaluationFailedError, DeliveryAbandonedError.
    """
    best = recorder.table.best()
    if best is None or best.best_value is None or best.best_epoch is None:
        return None
    known = recorder.table.winner
    if known is not None and known.trial == best.number and known.model_uri:
        return known
    folder = Path(launch.storage)
    loss, accuracy = finalist.evaluate(
        folder / "trials" / trial_folder(best.number),
        best.best_epoch,
        folder / "model",
        Path(launch.data_root),
        Path(launch.cache_root),
        max_restarts=max_restarts,
        ordered=retrier.stop_requested,
    )
    winner = Winner(trial=best.number, value=best.best_value, test_accuracy=accuracy, test_loss=loss)
    retrier.call(tracker.finish)
    uri = retrier.call(lambda: tracker.register(folder / "model", winner))
    winner = winner.model_copy(update={"model_uri": uri})
    log.info("trial %d won, test accuracy %.4f, registered as %s", winner.trial, winner.test_accuracy, uri)
    recorder.record_winner(winner)
    return winner


def _close(tracker: Tracker, recorder: Recorder, over: Outcome, winner: Winner | None, retrier: Retrier) -> None:
    """End what has not ended, deliver what MLflow lacks and end the parent run with its summary."""
    for number in list(recorder.table.trials):
        recorder.record_end(number, *over.of_trial(number))
    retrier.call(tracker.finish)
    summary: dict[str, float] = {f"trials_{state.lower()}": count for state, count in recorder.table.counts().items()}
    tags: dict[str, str] = {Tag.STATE: over.phase.upper(), Tag.REASON: over.reason}
    best = recorder.table.best()
    if best is not None and best.best_value is not None:
        summary |= {"best_value": best.best_value, "best_trial": best.number}
        tags |= {Tag.BEST_TRIAL: str(best.number), Tag.BEST_RUN_ID: tracker.ids().runs[best.number]}
    if winner is not None:
        summary["test_accuracy"] = winner.test_accuracy
        if winner.test_loss is not None:
            summary["test_loss"] = winner.test_loss
        tags[Tag.MODEL] = winner.model_uri or ""
    status, trials = PARENT_RUN_STATUS[over.phase], len(recorder.table.trials)
    retrier.call(lambda: tracker.end_parent_run(status, summary, tags, trials))


def _illustrate(launch: LaunchConfig, spec: ExperimentSpec, tracker: Tracker, finalist: WinnerEvaluation) -> None:
    """Attach the pictures that depend on the spec, now that nobody waits. A failure is of no consequence."""
    folder = Path(launch.storage) / "pictures"
    try:
        finalist.illustrate(spec, folder, Path(launch.data_root), Path(launch.cache_root), PICTURES_PATIENCE_S)
        tracker.log_folder(folder)
    except Exception as error:
        log.warning("no pictures: %r", error)


def _sentence(error: Exception) -> str:
    """What went wrong, without the traceback that Tune puts into its errors."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {said[-1][:500] if said else 'without a word'}"


def main(arguments: list[str]) -> int:
    """Exit status 0: ended as the service will be told. 1: this attempt failed, or another took over."""
    logging.basicConfig(level=logging.INFO, format=logs.FORMAT)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("ray.tune.analysis").setLevel(logging.ERROR)  # it looks for result files, which we do not write
    folder, attempt = Path(arguments[0]), int(arguments[1])
    with logs.process_log(folder / "logs" / f"driver-a{attempt}.log"):
        return _main(folder, attempt)


def _main(folder: Path, attempt: int) -> int:
    launch = LaunchConfig.model_validate_json((folder / f"launch-a{attempt}.json").read_text())
    spec = ExperimentSpec.model_validate_json((folder / "spec.json").read_text())
    startup.prepare(launch.slots)
    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False, logging_level=logging.WARNING)
    return 0 if drive(launch, spec) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
