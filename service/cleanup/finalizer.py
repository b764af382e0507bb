"""Finalizer: what one experiment needs after its end, and its deletion.

Owns the steps: it ends MLflow runs that the driver could not end, removes checkpoints of a canceled experiment, and
removes everything of a deleted one. Every step can be repeated, so that a crash between two costs nothing. It must not
know when it runs or how often it is retried: that is for `worker`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Select, delete, select

from search_spaces.mlflow_view import view_key
from search_spaces.protocol import (
    PARENT_RUN_STATUS,
    TRIAL_RUN_STATUS,
    Phase,
    RunStatus,
    Tag,
    TrialState,
    attempt_id,
    registered_model_name,
)
from search_spaces.stored import StoredSpec
from service.adapters import mlflow_cleanup
from service.adapters.launcher import ALIVE, ClusterUnreachableError
from service.adapters.mlflow_cleanup import RecordedRuns
from service.context import AppContext
from service.contract.states import State
from service.domain import continuation
from service.store.leases import HeldLease, assert_held
from service.store.models import WITHOUT_VALUES, Experiment, Trial

#: The final phase of an experiment's driver, by the state of the experiment.
FINAL_PHASE = {State.COMPLETED: Phase.COMPLETED, State.CANCELED: Phase.CANCELED, State.ERROR: Phase.FAILED}

QUERIED_RUNS = 500  # ids in one query

log = logging.getLogger(__name__)


class RetryLaterError(Exception):
    """Another process must end first. The message says which."""


@dataclass(frozen=True)
class EndedExperiment:
    """An experiment that needs to be finalized, as it was read from the database."""

    id: str
    model: str
    mlflow_experiment_id: str | None
    mlflow_run_id: str | None
    mlflow_view: str | None
    mlflow_workspace: str | None
    state: State
    reason: str
    attempt: int
    at: datetime
    spec: StoredSpec
    best_trial: int | None
    winner_registered: bool

    @property
    def attempt_id(self) -> str:
        return attempt_id(self.id, self.attempt)


class Finalizer:
    """Finalizes one experiment. All methods raise UnavailableError, OSError, RetryLaterError and LeaseLostError."""

    def __init__(self, context: AppContext, clock: Callable[[], datetime]) -> None:
        self._context = context
        self._clock = clock

    def finalize(self, held: HeldLease, ended: EndedExperiment) -> None:
        if ended.attempt:
            self._context.storage.check()  # elsewhere it would find nothing to remove, and no record of the runs
        if ended.state is State.DELETING:
            self._remove(held, ended)
        else:
            self._close(held, ended)

    def report_blocker(self, held: HeldLease, ended: EndedExperiment, why: str) -> None:
        """Show why a deletion has not completed."""
        reason = f"being deleted; {why}"
        if ended.state is not State.DELETING or reason == ended.reason:
            return
        with self._context.database.write() as session:
            assert_held(session, held, self._clock())
            experiment = session.scalar(_unchanged(ended).with_for_update())
            if experiment is not None:
                experiment.reason = reason

    def _close(self, held: HeldLease, ended: EndedExperiment) -> None:
        """End the MLflow runs that the driver left open. If there are none, this costs a small request per 500 runs."""
        mlflow, trials = self._context.mlflow.within(ended.mlflow_workspace), self._trials(ended.id)
        recorded = self._recorded_runs(ended, trials)
        found = mlflow.find_runs(recorded.mlflow_experiments, recorded.trials, open_only=True)
        for run in found:
            if not self._still_ended(ended):  # a new driver needs them open
                return
            mlflow.end_run(run.run_id, *_final_run_status(recorded.trials[run.run_id], ended, trials))
        if found:
            log.info("ended %d MLflow runs of experiment %s", len(found), ended.id)
            return  # the next pass looks for more
        if ended.state is State.CANCELED and ended.attempt:
            self._prune_checkpoints(ended)
        with self._context.database.write() as session:
            assert_held(session, held, self._clock())
            experiment = session.scalar(_unchanged(ended).with_for_update())
            if experiment is not None:
                experiment.mlflow_closed = True

    def _prune_checkpoints(self, ended: EndedExperiment) -> None:
        """Apply the checkpoint policy: a canceled experiment never resumes, all others may."""
        if self._is_driven(ended):
            raise RetryLaterError("its last driver has not ended yet")
        with self._context.database.read() as session:
            importer = continuation.pending_import(session, ended.id)
        if importer is not None:
            raise RetryLaterError(f"experiment {importer.id} has not imported its trials yet")
        try:
            policy = ended.spec.checkpoints
        except ValidationError:
            log.warning("this version cannot read which checkpoints experiment %s keeps: it keeps all", ended.id)
            return
        files = self._context.files(ended.id)
        freed = files.remove_checkpoints(policy, ended.best_trial, ended.winner_registered)
        if freed:
            log.info("removed %d bytes of checkpoints of the canceled experiment %s", freed, ended.id)

    def _remove(self, held: HeldLease, ended: EndedExperiment) -> None:
        """Delete the files, then the models and runs, then what locates them. Waits until the driver ends."""
        if self._is_driven(ended):  # it draws plots after its final heartbeat
            with contextlib.suppress(ClusterUnreachableError):  # the next pass tries again
                self._context.launcher.stop(ended.attempt_id)
            raise RetryLaterError("its last driver has been asked to stop")
        files = self._context.files(ended.id)
        if ended.attempt:
            files.remove_untracked()  # before MLflow is asked: a full disk may be why it does not answer
            recorded = self._recorded_runs(ended, self._trials(ended.id))
            if None not in recorded.trials.values():
                log.warning("experiment %s has no recorded parent run: what MLflow may have of it stays", ended.id)
            mlflow_cleanup.delete_experiment(self._context.mlflow.within(ended.mlflow_workspace), recorded)
        files.remove()
        with self._context.database.write() as session:
            assert_held(session, held, self._clock())
            session.execute(delete(Experiment).where(Experiment.id == ended.id, Experiment.state == State.DELETING))
        log.info("deleted experiment %s", ended.id)

    def _is_driven(self, ended: EndedExperiment) -> bool:
        """Whether its last driver may still write. A driver ends soon after its final heartbeat, and soon after Ray."""
        try:
            return bool(ended.attempt) and self._context.launcher.status(ended.attempt_id) in ALIVE
        except ClusterUnreachableError as error:
            if self._context.cluster_cache.unreachable_s > self._context.settings.stop_grace_s:
                return False
            raise RetryLaterError(f"Ray must first report whether its last driver has ended: {error}") from None

    def _still_ended(self, ended: EndedExperiment) -> bool:
        with self._context.database.read() as session:
            return session.scalar(_unchanged(ended)) is not None

    def _recorded_runs(self, ended: EndedExperiment, trials: Mapping[int, Trial]) -> RecordedRuns:
        """The runs that a driver reported, and those that it had recorded when it was lost. Raises OSError."""
        tracked = self._context.files(ended.id).tracked_runs()
        runs: dict[str, int | None] = dict(tracked.trials) | ({tracked.parent: None} if tracked.parent else {})
        for run in self._runs_of_others(ended.id, runs):  # code that trains can write to the storage
            log.warning("run %s, which the storage of experiment %s has, is another's: it stays", run, ended.id)
            del runs[run]
        runs |= {trial.mlflow_run_id: number for number, trial in trials.items() if trial.mlflow_run_id}
        runs |= {ended.mlflow_run_id: None} if ended.mlflow_run_id else {}
        experiments = filter(None, (tracked.mlflow_experiment, ended.mlflow_experiment_id))
        return RecordedRuns(frozenset(experiments), runs, ended.model, ended.mlflow_view)

    def _runs_of_others(self, experiment_id: str, runs: Iterable[str]) -> list[str]:
        """Those of the runs that a driver of another experiment has reported."""
        found: list[str] = []
        with self._context.database.read() as session:
            for some in _batches(runs):
                trials = select(Trial.mlflow_run_id).where(
                    Trial.mlflow_run_id.in_(some), Trial.experiment_id != experiment_id
                )
                parents = select(Experiment.mlflow_run_id).where(
                    Experiment.mlflow_run_id.in_(some), Experiment.id != experiment_id
                )
                found += filter(None, [*session.scalars(trials), *session.scalars(parents)])
        return found

    def _trials(self, experiment_id: str) -> dict[int, Trial]:
        with self._context.database.read() as session:
            found = session.scalars(select(Trial).where(Trial.experiment_id == experiment_id).options(*WITHOUT_VALUES))
            return {trial.trial: trial for trial in found}


def of(experiment: Experiment, now: datetime) -> EndedExperiment:
    """The ended experiment of a row."""
    winner = experiment.winner
    return EndedExperiment(
        id=experiment.id,
        model=registered_model_name(experiment.project, experiment.name, experiment.team_id),
        mlflow_experiment_id=experiment.mlflow_experiment_id,
        mlflow_run_id=experiment.mlflow_run_id,
        mlflow_view=view_key(experiment.id) if experiment.mlflow_view else None,
        mlflow_workspace=experiment.mlflow_workspace,
        state=State(experiment.state),
        reason=experiment.reason,
        attempt=experiment.attempt,
        at=experiment.ended_at or now,
        spec=StoredSpec(experiment.spec),
        best_trial=experiment.best_trial,
        winner_registered=winner is not None and winner.get("trial") == experiment.best_trial,
    )


def _batches(runs: Iterable[str]) -> Iterator[list[str]]:
    """As many as a query may name."""
    remaining = iter(runs)
    while some := list(itertools.islice(remaining, QUERIED_RUNS)):
        yield some


def _unchanged(ended: EndedExperiment) -> Select[Any]:
    """The experiment, unless it was queued again in the meantime."""
    return select(Experiment).where(
        Experiment.id == ended.id, Experiment.state == ended.state, Experiment.attempt == ended.attempt
    )


def _final_run_status(
    number: int | None, ended: EndedExperiment, trials: Mapping[int, Trial]
) -> tuple[RunStatus, dict[str, str], datetime]:
    """Status, tags and end time of the run of a trial, or of the parent run, that the driver left open."""
    phase = FINAL_PHASE[ended.state]
    if number is None:
        return PARENT_RUN_STATUS[phase], {Tag.STATE: phase.upper(), Tag.REASON: ended.reason}, ended.at
    trial = trials.get(number)
    state = TrialState(trial.state) if trial else TrialState.CANCELED
    reason = trial.stop_reason if trial else "the experiment ended before its driver reported this trial"
    at = trial.ended_at if trial and trial.ended_at else ended.at
    return TRIAL_RUN_STATUS.get(state, RunStatus.KILLED), {Tag.TRIAL_STATE: state, Tag.STOP_REASON: reason}, at
