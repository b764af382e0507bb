"""Housekeeping: what is done for experiments that have ended, away from the queue.

Ends runs in MLflow that their drivers could not end, removes what a person deleted, and files and keys that are
older than they are kept. A thread of its own, because MLflow and shared file systems are slow; it acts only while
the reconciler holds the lease. Every step can be done twice, so that a crash between two costs nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from search_spaces.protocol import RUN_STATUS, RunStatus, TrialState
from service import idempotency
from service.context import Context, utc_now
from service.errors import Unavailable
from service.launcher import ALIVE, RayUnreachable
from service.results import OpenRun, Runs
from service.states import ACTIVE, ENDED, State
from service.store.leases import Held, LeaseLost, hold
from service.store.models import Experiment, Trial

INTERVAL_S = 2.0
AWAY_S = 10.0  # before MLflow is asked again after it did not answer
SWEEP_S = 300.0
KEYS_KEPT = timedelta(hours=24)
AT_ONCE = 20

#: Status and word of a parent run, by the state of its experiment.
PARENT = {
    State.COMPLETED: (RunStatus.FINISHED, "COMPLETED"),
    State.CANCELED: (RunStatus.KILLED, "CANCELED"),
    State.ERROR: (RunStatus.FAILED, "FAILED"),
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Ended:
    """An experiment that waits for housekeeping, as it was read from the database."""

    runs: Runs
    state: State
    reason: str
    attempt: int
    at: datetime


class Housekeeping:
    """`start` and `stop` the thread; `turn` is one of its, for tests. `held` gives the lease while it is ours."""

    def __init__(
        self,
        context: Context,
        held: Callable[[], Held | None],
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._held = held
        self._clock = clock
        self._monotonic = monotonic
        self._asked_at = self._swept_at = float("-inf")
        self._clean: set[tuple[str, int]] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after what it does now; what is left is done after the next start."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    def turn(self) -> None:
        """Do what is due. Raises SQLAlchemyError, and LeaseLost when another replica has taken over."""
        if (held := self._held()) is None:
            return
        if self._monotonic() - self._asked_at >= AWAY_S:
            for ended in self._waiting():
                self._settle(held, ended)
        if self._monotonic() - self._swept_at >= SWEEP_S:
            self._swept_at = self._monotonic()
            self._sweep(held)

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            try:
                self.turn()
            except (LeaseLost, SQLAlchemyError) as error:
                log.warning("housekeeping goes on later: %s", str(error).splitlines()[0])
            except Exception:
                log.exception("a turn of housekeeping failed; the next one tries again")

    def _waiting(self) -> list[_Ended]:
        open_in_mlflow = Experiment.state.in_(ENDED) & Experiment.mlflow_closed.is_(False)
        query = select(Experiment).where((Experiment.state == State.DELETING) | open_in_mlflow)
        with self._context.database.read() as session:
            found = session.scalars(query.order_by(Experiment.ended_at, Experiment.id).limit(AT_ONCE))
            return [_ended(experiment, self._clock()) for experiment in found]

    def _settle(self, held: Held, ended: _Ended) -> None:
        """Close or remove one experiment. What is away is waited for, and the others do not wait for it."""
        if self._stopping.is_set():
            return
        try:
            if ended.state is State.DELETING:
                self._remove(held, ended)
            else:
                self._close_runs(held, ended)
        except (Unavailable, OSError) as error:
            why = error.detail if isinstance(error, Unavailable) else f"its files cannot be removed: {error}"
            log.warning("experiment %s: %s", ended.runs.experiment_id, why)
            if isinstance(error, Unavailable):
                self._asked_at = self._monotonic()
            if ended.state is State.DELETING:
                self._say(held, ended, f"being deleted; {why}")

    def _close_runs(self, held: Held, ended: _Ended) -> None:
        """End in MLflow what its driver left open; what it closed itself costs one small request."""
        results = self._context.results
        found = results.open_runs(ended.runs) if ended.attempt else []
        lines = self._lines(ended.runs.experiment_id) if found else {}
        for run in found:
            results.end_run(run.run_id, *_verdict(run, ended, lines))
        if found:
            log.info("ended %d runs of experiment %s in MLflow", len(found), ended.runs.experiment_id)
            return  # the next turn sees whether there are more
        with self._context.database.write() as session:
            hold(session, held, self._clock())
            experiment = _unchanged(session, ended)
            if experiment is not None:
                experiment.mlflow_closed = True

    def _remove(self, held: Held, ended: _Ended) -> None:
        """Files, then models and runs, then the rows that say where those were. Waits for the driver's end."""
        if self._still_driven(ended):
            return
        self._context.storage(ended.runs.experiment_id).remove()
        if ended.attempt:
            self._context.results.remove(ended.runs)
        with self._context.database.write() as session:
            hold(session, held, self._clock())
            session.execute(
                delete(Experiment).where(Experiment.id == ended.runs.experiment_id, Experiment.state == State.DELETING)
            )
        log.info("deleted experiment %s", ended.runs.experiment_id)

    def _still_driven(self, ended: _Ended) -> bool:
        """Whether the last driver has yet to end, which draws pictures after its last word; it is told to stop."""
        launcher, attempt_id = self._context.launcher, f"exp-{ended.runs.experiment_id}-a{ended.attempt}"
        try:
            if not ended.attempt or launcher.status(attempt_id) not in ALIVE:
                return False
            launcher.stop(attempt_id)
        except RayUnreachable:  # drivers do not outlive Ray
            return False
        return True

    def _say(self, held: Held, ended: _Ended, reason: str) -> None:
        if reason == ended.reason:
            return
        with self._context.database.write() as session:
            hold(session, held, self._clock())
            experiment = _unchanged(session, ended)
            if experiment is not None:
                experiment.reason = reason

    def _lines(self, experiment_id: str) -> dict[int, Trial]:
        with self._context.database.read() as session:
            found = session.scalars(select(Trial).where(Trial.experiment_id == experiment_id))
            return {trial.trial: trial for trial in found}

    def _sweep(self, held: Held) -> None:
        with self._context.database.write() as session:
            hold(session, held, self._clock())
            idempotency.forget(session, self._clock() - KEYS_KEPT)
        for experiment_id, attempt in self._past_keeping():
            freed = self._context.storage(experiment_id).remove_passing()
            self._clean.add((experiment_id, attempt))
            if freed:
                log.info("removed %d bytes of experiment %s, which ended long ago", freed, experiment_id)

    def _past_keeping(self) -> list[tuple[str, int]]:
        """Experiments whose files are older than they are kept, but those that a fork has yet to read."""
        days = self._context.settings.keep_files_days
        if days is None:
            return []
        sources = select(Experiment.source_id).where(
            Experiment.source_id.is_not(None), Experiment.state.in_({*ACTIVE, State.PAUSED})
        )
        query = select(Experiment.id, Experiment.attempt).where(
            Experiment.state.in_(ENDED),
            Experiment.ended_at < self._clock() - timedelta(days=days),
            Experiment.id.not_in(sources),
        )
        with self._context.database.read() as session:
            found = [(experiment_id, attempt) for experiment_id, attempt in session.execute(query)]
        return [one for one in found if one not in self._clean]


def _ended(experiment: Experiment, now: datetime) -> _Ended:
    runs = Runs(experiment.id, experiment.project, experiment.mlflow_experiment_id)
    at = experiment.ended_at or now
    return _Ended(runs, State(experiment.state), experiment.reason, experiment.attempt, at)


def _unchanged(session: Session, ended: _Ended) -> Experiment | None:
    """The experiment, locked, if nobody has queued it again meanwhile."""
    query = select(Experiment).where(
        Experiment.id == ended.runs.experiment_id,
        Experiment.state == ended.state,
        Experiment.attempt == ended.attempt,
    )
    return session.scalar(query.with_for_update())


def _verdict(run: OpenRun, ended: _Ended, lines: dict[int, Trial]) -> tuple[RunStatus, dict[str, str], datetime]:
    """Status, tags and end of a run that its driver left open."""
    status, word = PARENT[ended.state]
    if run.trial is None:
        return status, {"rung.state": word, "rung.reason": ended.reason}, ended.at
    line = lines.get(run.trial)
    state = TrialState(line.state) if line else TrialState.CANCELED
    reason = line.stop_reason if line else "the experiment ended before its driver told of it"
    at = line.ended_at if line and line.ended_at else ended.at
    return RUN_STATUS.get(state, RunStatus.KILLED), {"rung.trial_state": state, "rung.stop_reason": reason}, at
