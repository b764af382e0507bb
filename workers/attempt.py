"""ExperimentAttempt: one attempt at one experiment, from its stored spec to its registered winner.

Owns the phases, what each needs from the one before it, and what the experiment becomes when one of them fails. The
work itself is that of the parts that it connects: recorder, heartbeat, tracking, search and winner. It must not know
how trials are run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from search_spaces.controls import Controls
from search_spaces.experiment import ExperimentSpec
from search_spaces.insight import Insight
from search_spaces.layout import NAMES
from search_spaces.phrases import counted
from search_spaces.protocol import Directives, ErrorKind, LaunchConfig, Packing, Phase, Winner
from search_spaces.storage.base import JournalDamagedError, WriterFencedError, open_storage, read_document
from workers.failures import from_ray
from workers.failures.attempt import AttemptError, MisplacedJournalError, MissingJournalError, NewerJournalError
from workers.failures.classification import NodeError, TrialError, sentence, text_of
from workers.fence import Fence
from workers.heartbeat import HeartbeatThread
from workers.nodes import check_node
from workers.search import continuation, stop_conditions, warm_start
from workers.search.checkpoint_keeper import CheckpointKeeper
from workers.search.policy import SearchPolicy
from workers.search.stop_conditions import Outcome
from workers.search.tune_callbacks import TuneCallback
from workers.search.verdicts import Verdicts
from workers.state.fresh_seeds import winner as winner_of
from workers.state.recorder import ForeignJournalError, Recorder
from workers.tracking.connection import SupersededError, is_outage, is_permanent
from workers.tracking.mlflow_ids import MlflowIds
from workers.tracking.remarks import remarks
from workers.tracking.retry import OUTAGE_LIMIT_S, DeliveryAbandonedError, Retrier
from workers.tracking.summary import Summary, shares_of, summarize
from workers.winner.evaluation import EvaluationFailedError, StopRequestedError, WinnerScore
from workers.winner.model_digest import digest

log = logging.getLogger(__name__)

FINAL_HEARTBEAT_PATIENCE_S = 60.0
PLOTS_TIMEOUT_S = 60.0
INSIGHT_TIMEOUT_S = 60.0  # of which the insight itself takes 50 s at most; the user waits for it
MEASURING = "measures how many trials share a GPU"
REFUSALS_LIMIT_S = 300.0  # for an MLflow that answers, but with errors


class TrialRunner(Protocol):
    """Runs trials until all have ended or `callback.outcome` is set. In production it is `tune_run.run_trials`."""

    def __call__(
        self,
        launch: LaunchConfig,
        spec: ExperimentSpec,
        recorder: Recorder,
        callback: TuneCallback,
        on_last: Callable[[], None],
    ) -> None: ...


class Probe(Protocol):
    """Measures how many trials share a GPU; in production it is `GpuProbe`."""

    def measure(
        self,
        spec: ExperimentSpec,
        launch: LaunchConfig,
        directives: Callable[[], Directives],
        stop_requested: Callable[[], bool],
    ) -> Packing | None: ...


class Evaluation(Protocol):
    """Measures the winner, stores its model, the insight and the plots; in production it is `WinnerEvaluation`."""

    def prepare(self) -> None: ...

    def evaluate(
        self,
        number: int,
        epochs: int,
        launch: LaunchConfig,
        agreed: Mapping[str, str] | None = None,
        *,
        max_restarts: int,
        stop_requested: Callable[[], bool],
    ) -> WinnerScore: ...

    def make_insight(self, spec: ExperimentSpec, launch: LaunchConfig, timeout_s: float) -> None: ...

    def draw_plots(self, spec: ExperimentSpec, launch: LaunchConfig, timeout_s: float) -> None: ...


class Tracking(Protocol):
    """The writer to MLflow; the production implementation is `Tracker`."""

    @property
    def answered_at(self) -> float: ...

    @property
    def behind_s(self) -> float: ...

    def ids(self) -> MlflowIds: ...

    def start(self) -> None: ...

    def wake(self) -> None: ...

    def stop(self) -> None: ...

    def close(self) -> None: ...

    def finish(self) -> None: ...

    def pause(self, reason: str) -> None: ...

    def register(self, folder: Path, winner: Winner) -> str: ...

    def end_parent_run(self, summary: Summary) -> None: ...

    def log_folder(self, folder: Path) -> None: ...


class ExperimentAttempt:
    """`run` goes through the phases open, restore, search, finalize and close, in this order.

    After an error, the remaining phases except `close` are skipped. The error ends this attempt, not the experiment:
    the service learns why, and starts another attempt a limited number of times, or none before a person acts.
    """

    def __init__(
        self,
        launch: LaunchConfig,
        spec: ExperimentSpec,
        run_trials: TrialRunner,
        probe: Probe,
        evaluating: Callable[[ExperimentSpec], Evaluation],
        track: Callable[[Callable[[], bool]], Tracking],
    ) -> None:
        """`evaluating` is called with the spec in which the size of a trial is decided. `track` makes the writer to
        MLflow; its argument returns whether the attempt is superseded."""
        self._launch = launch.model_copy(update={"controls": launch.controls or Controls.of(spec)})
        self._spec = spec
        self._run_trials = run_trials
        self._probe = probe
        self._evaluating = evaluating
        self._track = track
        self._storage = open_storage(launch.storage)
        self._fence = Fence()
        self._heartbeat = HeartbeatThread(self._launch, self._fence)
        self._writers = ExitStack()  # closed before the final heartbeat, after which another attempt may write
        self._outcome = Outcome()
        self._winner: Winner | None = None
        self._controls: Controls | None = None  # those under which the search ended

    def run(self) -> bool:
        """Run the attempt to its end. False when an error ended it, the experiment failed or a later one took over."""
        with ExitStack() as stack:
            stack.callback(self._heartbeat.close)
            stack.enter_context(self._writers)
            try:
                self.open()
                self.restore()
                self.search()
                self.finalize()
            except Exception as error:
                self._end_with(error)
            return self.close()

    def open(self) -> None:
        """Open the journal and start the heartbeat. Nothing is written where the journal should exist but does not."""
        check_node(self._launch.storage, self._launch.marker, self._launch.version)
        if self._launch.trials and not self._storage.journal.exists():
            raise MissingJournalError(self._launch.storage, self._launch.trials)
        try:
            self._recorder = Recorder(
                self._storage.journal,
                self._spec.objective,
                self._launch.attempt,
                experiment=self._launch.experiment_id,
            )
        except ForeignJournalError as error:
            raise MisplacedJournalError(self._launch.storage, str(error)) from error
        except WriterFencedError as error:  # the service does not hear it if this driver was replaced
            raise NewerJournalError(str(error)) from error
        except OSError as error:
            raise AttemptError(f"the journal cannot be opened: {error}") from error
        self._writers.callback(self._release_slots)
        self._writers.callback(self._recorder.close)
        self._tracker = self._track(self._fence.is_closed)
        self._writers.callback(self._stop_tracking)
        self._retrier = Retrier(
            stop_requested=lambda: self._requested() is not None,
            answered_at=lambda: self._tracker.answered_at,
            on_wait=self._report_wait,
            retry_window_s=_retry_window_s,
        )
        self._heartbeat.report_trials(self._recorder, self._tracker.ids, lambda: self._tracker.behind_s)
        self._heartbeat.start()

    def restore(self) -> None:
        """Import the trials of the source and read earlier experiments, both once, and rebuild the search's state."""
        table = self._recorder.table
        if self._launch.source and not table.trials:
            imported = continuation.import_trials(self._launch.source, self._storage, self._recorder)
            log.info("%d trials are imported from the source experiment", imported)
        if self._launch.earlier is not None and table.known is None:
            warm_start.take_from(self._launch.earlier, self._recorder, self._spec.objective)
        if self._launch.failed_attempt:
            again = self._recorder.record_second_chance(self._launch.failed_attempt)
            log.info("%d trials that failed before the experiment was resumed are tried again", again)
        log.info(
            "attempt %d of %s starts with %d known trials", self._launch.attempt, self._spec.name, len(table.trials)
        )
        if lost := max(0, self._launch.trials - len(table.searched())):
            log.warning(
                "%d of %d trials are missing from the damaged journal; they will be proposed again",
                lost,
                self._launch.trials,
            )
        self._tracker.start()

    def search(self) -> None:
        """Run trials until all have ended or the search is over for another reason."""
        self._heartbeat.phase = Phase.SEARCHING
        self._decide_share()
        spec, table = self._spec, self._recorder.table
        self._evaluation = self._evaluating(spec)
        self._checkpoints = CheckpointKeeper(self._storage.artifacts, spec.checkpoints, table)
        self._callback = TuneCallback(
            SearchPolicy(spec),
            Verdicts(spec.early_stopping, spec.objective, spec.max_epochs, table.reports()),
            self._recorder,
            self._checkpoints,
            self._storage,
            lambda: self._heartbeat.directives,
            self._fence,
            self._heartbeat.wake,
        )
        self._heartbeat.notice = self._callback.notice
        self._heartbeat.excluded_nodes = self._callback.excluded_nodes
        self._heartbeat.leaving_nodes = self._callback.leaving_nodes
        self._run_trials(self._launch, self._spec, self._recorder, self._callback, self._evaluation.prepare)
        self._controls = self._callback.controls
        self._outcome = self._callback.outcome or stop_conditions.exhausted(
            self._recorder.table, self._callback.num_samples(), self._callback.why_fewer()
        )
        self._outcome = stop_conditions.with_failures(self._outcome, self._recorder.table)
        log.info("the search is over, %s: %s", self._outcome.phase, self._outcome.reason or "every trial has ended")

    def finalize(self) -> None:
        """Evaluate and register the winner of a completed search, and end the experiment unless it is to resume."""
        if self._outcome.phase is Phase.COMPLETED:
            self._heartbeat.phase = Phase.FINALIZING
            self._tracker.wake()
            self._heartbeat.wake()
            try:
                self._winner = self._finalize_winner()
            except (EvaluationFailedError, StopRequestedError) as error:
                self._end_with(error)
        if self._outcome.phase is not Phase.PAUSED:
            self._end_experiment()
            self._checkpoints.finish(self._winner.trial if self._winner else None)
        elif not self._fence.is_closed():
            self._tracker.pause(self._outcome.reason)

    def close(self) -> bool:
        """Stop writing, send the final heartbeat, and draw the plots of a winner now that nobody waits for them."""
        self._writers.close()
        outcome = self._outcome
        if self._fence.is_closed():
            return False
        self._heartbeat.send_final(
            outcome.phase,
            outcome.reason,
            self._winner,
            FINAL_HEARTBEAT_PATIENCE_S,
            blocked=outcome.blocked,
            controls=self._controls,
        )
        if self._has_winner():
            self._draw_plots()
            self._tracker.close()
        return not outcome.error and outcome.phase is not Phase.FAILED and not self._fence.is_closed()

    def _decide_share(self) -> None:
        """With `gpus_per_trial: auto`, measure how many trials share a GPU, unless that is known. What is measured
        stays for later attempts, too; if nothing is, each trial has a whole GPU in this one."""
        if not self._spec.resources.is_auto:
            return
        packing = self._recorder.packing() or self._launch.packing
        if packing is None:
            self._report_wait(MEASURING)
            packing = self._probe.measure(
                self._spec, self._launch, lambda: self._heartbeat.directives, lambda: self._requested() is not None
            )
            self._report_wait("")
        if packing is not None:
            self._recorder.record_packing(packing)
            self._heartbeat.wake()
            log.info("%s on a GPU at once%s", counted(packing.trials, "trial"), packing.note and f": {packing.note}")
        gpus = packing.gpus_per_trial if packing else 1.0
        self._spec = self._spec.model_copy(update={"resources": self._spec.resources.with_gpus(gpus)})

    def _end_with(self, error: Exception) -> None:
        self._outcome = outcome_of(error, self._outcome, self._requested())
        if self._outcome.error and not self._outcome.blocked:
            try:  # the storage may be gone, which is behind whatever failed then
                check_node(self._launch.storage, self._launch.marker, self._launch.version)
            except NodeError as unusable:
                self._outcome = outcome_of(unusable, self._outcome, self._requested())
        if self._outcome.superseded:
            log.warning("%s", self._outcome.reason)
            self._fence.close()
        elif self._outcome.error:
            log.error("the attempt failed: %s", self._outcome.reason, exc_info=error)
            self._winner = None

    def _requested(self) -> Outcome | None:
        return stop_conditions.requested(self._heartbeat.directives, self._fence.is_closed())

    def _has_winner(self) -> bool:
        return self._winner is not None and self._outcome.phase is Phase.COMPLETED

    def _finalize_winner(self) -> Winner | None:
        """Evaluate the winner, log and register its model. None when no trial has a value.

        The registered winner of an earlier attempt stays if no better trial was found since.
        """
        table = self._recorder.table
        won, known = winner_of(self._spec, table), table.winner
        best = won.run if won else None
        if best is None or best.best_value is None or best.best_epoch is None:
            return None
        if known is not None and known.trial == best.number and known.model_uri:
            return known
        result = self._evaluation.evaluate(
            best.number,
            best.best_epoch,
            self._launch,
            table.data,
            max_restarts=self._callback.controls.max_restarts,
            stop_requested=self._retrier.stop_requested,
        )
        measured = {**result.more, "test_accuracy": result.accuracy, "test_loss": result.loss}
        winner = Winner.model_validate({"trial": best.number, "value": best.best_value, **measured})
        self._need_no_slot()
        self._retrier.call(self._tracker.finish)
        with self._storage.artifacts.local_folder(NAMES.model) as folder:
            winner = winner.model_copy(update={"model_sha256": digest(folder)})
            uri = self._retrier.call(lambda: self._tracker.register(folder, winner))
        winner = winner.model_copy(update={"model_uri": uri})
        log.info("trial %d won with test accuracy %.4f, registered as %s", winner.trial, winner.test_accuracy, uri)
        self._recorder.record_winner(winner)
        return winner

    def _end_experiment(self) -> None:
        """End the trials that remain, deliver what MLflow lacks and end the parent run with its summary."""
        outcome, table = self._outcome, self._recorder.table
        self._need_no_slot()
        for number in list(table.trials):
            self._recorder.record_end(number, *outcome.of_trial(number))
        self._retrier.call(self._tracker.finish)
        insight = self._make_insight()
        notes = remarks(self._storage.artifacts, insight)
        metric, runs = self._spec.objective.metric, self._tracker.ids().runs
        summary = summarize(outcome.phase, outcome.reason, table, runs, self._winner, metric, shares_of(insight), notes)
        self._log_data()
        self._retrier.call(lambda: self._tracker.end_parent_run(summary))

    def _need_no_slot(self) -> None:
        """What is left is sent to MLflow, however long that takes: the slot is for others."""
        self._heartbeat.phase = Phase.DELIVERING
        self._heartbeat.wake()

    def _make_insight(self) -> Insight | None:
        """Store why the best trial of a completed search won, and log it on the parent run. An error only costs
        that."""
        try:
            self._storage.artifacts.remove(NAMES.insight_report)  # that of an earlier end of the search
            if self._outcome.phase is not Phase.COMPLETED or self._recorder.table.best() is None:
                return None
            self._evaluation.make_insight(self._spec, self._launch, INSIGHT_TIMEOUT_S)
            self._log_folder(NAMES.insight, NAMES.insight_report)
            if not self._storage.artifacts.exists(NAMES.insight_report):
                return None
            return Insight.model_validate_json(read_document(self._storage.artifacts, NAMES.insight_report))
        except Exception as error:
            log.warning("why the winner won could not be computed or uploaded: %r", error)
            return None

    def _draw_plots(self) -> None:
        """Log the plots on the parent run. An error only costs the plots."""
        try:
            self._evaluation.draw_plots(self._spec, self._launch, PLOTS_TIMEOUT_S)
            self._log_folder(NAMES.insight, NAMES.insight_report)
            with self._storage.artifacts.local_folder(NAMES.plots) as folder:
                self._tracker.log_folder(folder)
        except Exception as error:
            log.warning("the plots could not be drawn or uploaded: %r", error)

    def _log_data(self) -> None:
        """Log what is known of the data on the parent run. An error only costs that."""
        try:
            self._log_folder(NAMES.data, NAMES.data_report)
        except Exception as error:
            log.warning("what is known of the data could not be uploaded: %r", error)

    def _log_folder(self, name: Path, content: Path) -> None:
        """Log a folder on the parent run if it has its `content`."""
        if self._storage.artifacts.exists(content):
            with self._storage.artifacts.local_folder(name) as folder:
                self._tracker.log_folder(folder)

    def _release_slots(self) -> None:
        """Report no trial as running: whatever happened to Tune, no trial holds a slot any more."""
        for number in self._recorder.table.trials:
            self._recorder.record_release(number, journaled=False)

    def _stop_tracking(self) -> None:
        """Only the plots of a winner are still logged after the final heartbeat."""
        self._tracker.stop()
        if not self._has_winner():
            self._tracker.close()

    def _report_wait(self, reason: str) -> None:
        if reason != self._heartbeat.reason:
            self._heartbeat.reason = reason
            self._heartbeat.wake()


def outcome_of(error: Exception, current: Outcome, requested: Outcome | None) -> Outcome:
    """What the experiment becomes when `error` ended a phase.

    `current` is the outcome so far, `requested` the one that the service wants.
    """
    match error:
        case WriterFencedError() | SupersededError():
            return Outcome(Phase.PAUSED, text_of(error), superseded=True)
        case StopRequestedError():
            return requested or current
        case EvaluationFailedError():
            return replace(current, reason="; ".join(filter(None, (current.reason, text_of(error)))))
        case DeliveryAbandonedError():
            stop = requested or Outcome(Phase.PAUSED, error=True)
            return replace(stop, reason="; ".join(filter(None, (stop.reason, text_of(error)))))
        case TrialError():
            failure = error.failure
            if failure.kind is ErrorKind.DISK_FULL:
                return stop_conditions.disk_full(failure.reason)
            reason = f"the winner could not be evaluated, {failure.kind}: {failure.reason}"
            lasting = failure.kind is ErrorKind.NODE or failure.kind in stop_conditions.COMMON_CAUSES
            return Outcome(Phase.PAUSED, reason, blocked=lasting, error=True)
        case NodeError():
            return Outcome(Phase.PAUSED, text_of(error), blocked=True, error=True)
        case _ if from_ray.is_disk_full(error):
            return stop_conditions.disk_full(text_of(error) if isinstance(error, AttemptError) else sentence(error))
        case AttemptError():
            blocked = error.blocked or from_ray.is_storage_unusable(error)
            return Outcome(Phase.PAUSED, text_of(error), blocked=blocked, error=True)
        case _:
            return Outcome(Phase.PAUSED, sentence(error), blocked=from_ray.is_storage_unusable(error), error=True)


def _retry_window_s(error: Exception) -> float:
    """For how long a call to MLflow that raised `error` is repeated; 0 for an error that will not pass."""
    if isinstance(error, SupersededError | JournalDamagedError | AttemptError) or is_permanent(error):
        return 0.0
    return OUTAGE_LIMIT_S if is_outage(error) else REFUSALS_LIMIT_S
