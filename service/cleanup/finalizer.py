"""Finalizer: what one experiment needs after its end, and what its deletion takes.

Ends runs in MLflow that its driver could not end, removes checkpoints of what will never go on, and everything of
what a person deleted. Every step can be done twice, so that a crash between two costs nothing. When it is done, and
how often it is tried, is for `housekeeping`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, select

from search_spaces.layout import CheckpointPolicy
from search_spaces.protocol import PARENT_RUN_STATUS, TRIAL_RUN_STATUS, RunStatus, Tag, TrialState, attempt_id
from search_spaces.stored import StoredSpec
from service.adapters import mlflow_cleanup
from service.adapters.launcher import ALIVE, ClusterUnreachableError
from service.adapters.mlflow_client import ExperimentRuns, Run
from service.context import AppContext
from service.contract.states import State
from service.domain import continuation
from service.store.leases import HeldLease, assert_held
from service.store.models import Experiment, Trial

#: The final phase of an experiment's driver, by the state of the experiment.
FINAL_PHASE = {State.COMPLETED: "completed", State.CANCELED: "canceled", State.ERROR: "failed"}

log = logging.getLogger(__name__)


class RetryLaterError(Exception):
    """Somebody else must end first. The message says who."""


@dataclass(frozen=True)
class EndedExperiment:
    """An experiment that waits for aftercare, as it was read from the database."""

    runs: ExperimentRuns
    state: State
    reason: str
    attempt: int
    at: datetime
    checkpoints: CheckpointPolicy
    best_trial: int | None
    winner_registered: bool

    @property
    def id(self) -> str:
        return self.runs.experiment_id

    @property
    def attempt_id(self) -> str:
        return attempt_id(self.id, self.attempt)


class Finalizer:
    """Finalizes one experiment. All methods raise Unavailable, OSError, RetryLaterError and LeaseLostError."""

    def __init__(self, context: AppContext, clock: Callable[[], datetime]) -> None:
        self._context = context
        self._clock = clock

    def finalize(self, held: HeldLease, ended: EndedExperiment) -> None:
        if ended.state is State.DELETING:
            self._remove(held, ended)
        else:
            self._close(held, ended)

    def report_blocker(self, held: HeldLease, ended: EndedExperiment, why: str) -> None:
        """Let a person who waits for a deletion know what keeps it."""
        reason = f"being deleted; {why}"
        if ended.state is not State.DELETING or reason == ended.reason:
            return
        with self._context.database.write() as session:
            assert_held(session, held, self._clock())
            experiment = session.scalar(_unchanged(ended).with_for_update())
            if experiment is not None:
                experiment.reason = reason

    def _close(self, held: HeldLease, ended: EndedExperiment) -> None:
        """End in MLflow what its driver left open; what it closed itself costs one small request."""
        mlflow = self._context.mlflow
        found = mlflow.find_runs(ended.runs, running_only=True) if ended.attempt else []
        lines = self._lines(ended.id) if found else {}
        for run in found:
            if not self._still_ended(ended):  # a driver that came meanwhile needs them open
                return
            kept = _canonical_run(run, lines)
            if kept is not None and mlflow.run_exists(kept):
                log.warning("run %s doubles %s of trial %s: it is deleted", run.run_id, kept, run.trial)
                mlflow.delete_run(run.run_id)
            else:
                mlflow.end_run(run.run_id, *_final_run_status(run, ended, lines))
        if found:
            log.info("settled %d runs of experiment %s in MLflow", len(found), ended.id)
            return  # the next turn sees whether there are more
        if ended.state is State.CANCELED and ended.attempt:
            self._prune_checkpoints(ended)
        with self._context.database.write() as session:
            assert_held(session, held, self._clock())
            experiment = session.scalar(_unchanged(ended).with_for_update())
            if experiment is not None:
                experiment.mlflow_closed = True

    def _prune_checkpoints(self, ended: EndedExperiment) -> None:
        """Of what is canceled nothing goes on, so that its checkpoints go by its policy. Others can be resumed."""
        if self._is_driven(ended):
            raise RetryLaterError("its last driver has yet to end")
        with self._context.database.read() as session:
            forks = select(Experiment.id).where(Experiment.source_id == ended.id, continuation.has_pending_import())
            fork = session.scalar(forks.limit(1))
        if fork is not None:
            raise RetryLaterError(f"experiment {fork} has yet to read its trials")
        storage = self._context.files(ended.id)
        freed = storage.remove_checkpoints(ended.checkpoints, ended.best_trial, ended.winner_registered)
        if freed:
            log.info("removed %d bytes of checkpoints of experiment %s, which was canceled", freed, ended.id)

    def _remove(self, held: HeldLease, ended: EndedExperiment) -> None:
        """Files, then models and runs, then the rows that say where those were. Waits for the driver's end."""
        if self._is_driven(ended):  # it draws pictures after its last word
            with contextlib.suppress(ClusterUnreachableError):  # the next turn asks again
                self._context.launcher.stop(ended.attempt_id)
            raise RetryLaterError("its last driver is told to end")
        self._context.files(ended.id).remove()
        if ended.attempt:
            mlflow_cleanup.delete_experiment(self._context.mlflow, ended.runs)
        with self._context.database.write() as session:
            assert_held(session, held, self._clock())
            session.execute(delete(Experiment).where(Experiment.id == ended.id, Experiment.state == State.DELETING))
        log.info("deleted experiment %s", ended.id)

    def _is_driven(self, ended: EndedExperiment) -> bool:
        """Whether its last driver may still write. A driver outlives neither its last word nor Ray for long."""
        try:
            return bool(ended.attempt) and self._context.launcher.status(ended.attempt_id) in ALIVE
        except ClusterUnreachableError as error:
            if self._context.cluster_cache.unreachable_s > self._context.settings.stop_grace_s:
                return False
            raise RetryLaterError(f"Ray must first say whether its last driver has ended: {error}") from None

    def _still_ended(self, ended: EndedExperiment) -> bool:
        with self._context.database.read() as session:
            return session.scalar(_unchanged(ended)) is not None

    def _lines(self, experiment_id: str) -> dict[int, Trial]:
        with self._context.database.read() as session:
            found = session.scalars(select(Trial).where(Trial.experiment_id == experiment_id))
            return {trial.trial: trial for trial in found}


def of(experiment: Experiment, now: datetime) -> EndedExperiment:
    """What aftercare must know of an experiment."""
    winner = experiment.winner
    return EndedExperiment(
        runs=ExperimentRuns(experiment.id, experiment.project, experiment.mlflow_experiment_id),
        state=State(experiment.state),
        reason=experiment.reason,
        attempt=experiment.attempt,
        at=experiment.ended_at or now,
        checkpoints=StoredSpec(experiment.spec).checkpoints,
        best_trial=experiment.best_trial,
        winner_registered=winner is not None and winner.get("trial") == experiment.best_trial,
    )


def _unchanged(ended: EndedExperiment) -> Select[Any]:
    """The experiment, if nobody has queued it again meanwhile."""
    return select(Experiment).where(
        Experiment.id == ended.id, Experiment.state == ended.state, Experiment.attempt == ended.attempt
    )


def _canonical_run(run: Run, lines: dict[int, Trial]) -> str | None:
    """The run that its driver told of a trial, where this one is another: a creation whose answer was lost."""
    line = None if run.trial is None else lines.get(run.trial)
    told = line.mlflow_run_id if line else None
    return told if told != run.run_id else None


def _final_run_status(
    run: Run, ended: EndedExperiment, lines: dict[int, Trial]
) -> tuple[RunStatus, dict[str, str], datetime]:
    """Status, tags and end of a run that its driver left open."""
    phase = FINAL_PHASE[ended.state]
    if run.trial is None:
        return PARENT_RUN_STATUS[phase], {Tag.STATE: phase.upper(), Tag.REASON: ended.reason}, ended.at
    line = lines.get(run.trial)
    state = TrialState(line.state) if line else TrialState.CANCELED
    reason = line.stop_reason if line else "the experiment ended before its driver told of it"
    at = line.ended_at if line and line.ended_at else ended.at
    return TRIAL_RUN_STATUS.get(state, RunStatus.KILLED), {Tag.TRIAL_STATE: state, Tag.STOP_REASON: reason}, at
