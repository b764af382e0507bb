"""Reconciler: compares what should run with what runs, and acts on the difference.

One thread. Each round it looks at the cluster, gives up drivers that died or fell silent, shares out the
slots, launches what is queued, and stops what does not stop by itself. Only the holder of the lease acts;
every write is made under it, and no write waits for a network. While Ray is away nothing changes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from search_spaces.experiment import ExperimentSpec
from search_spaces.problems import SpecError
from search_spaces.protocol import ENDED as TRIAL_ENDED
from search_spaces.protocol import Launch
from service import attempts, experiments
from service.allocation import Cluster, Demand, allocate
from service.attempts import OPEN
from service.context import Context
from service.launcher import ALIVE, JobStatus, RayUnreachable
from service.states import DRIVEN, State
from service.store.leases import Held, LeaseLost, acquire, hold, release
from service.store.models import Attempt, Experiment, Trial

LEASE = "queue"
QUIET_HEARTBEATS = 3  # so many missed, and Ray is asked what became of the driver
LOG_LINES = 20
LOG_CHARACTERS = 2_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Driver:
    """A running attempt, as it was read from the database."""

    experiment_id: str
    attempt_id: str
    number: int
    state: State
    begun_at: datetime
    heard_at: datetime | None
    stop_asked_at: datetime | None


class Reconciler:
    """`start` and `stop` the thread; `round` is one turn of it, for tests and for the curious."""

    def __init__(self, context: Context, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._context = context
        self._clock = clock
        self._owner = f"{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._born_at = clock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)
        self._held: Held | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its round, and give the lease back."""
        self._stopping.set()
        self._context.wake.set()
        self._thread.join(timeout=30)
        if self._held is not None:
            with contextlib.suppress(SQLAlchemyError):  # it runs out by itself
                release(self._context.database, self._held)

    def round(self) -> None:
        """Look, then act. Raises SQLAlchemyError when the database is away."""
        cluster = self._look()
        settings = self._context.settings
        self._held = acquire(self._context.database, LEASE, self._owner, settings.lease_s)
        if self._held is None or cluster is None:
            return
        self._check_drivers(self._held)
        shares = self._share_out(self._held, cluster)
        for experiment_id, slots in shares.items():
            self._launch(self._held, experiment_id, slots, cluster)

    def _run(self) -> None:
        self._context.launcher.warm()
        while not self._stopping.is_set():
            self._context.wake.clear()
            try:
                self.round()
            except LeaseLost as lost:
                log.warning("%s", lost)
            except RayUnreachable as away:
                self._context.watch.missed(str(away))
            except SQLAlchemyError as error:
                log.warning("the database does not answer: %s", error)
            except Exception:
                log.exception("a round of the reconciler failed; the next one tries again")
            self._context.wake.wait(self._context.settings.reconcile_s)

    def _look(self) -> Cluster | None:
        watch = self._context.watch
        try:
            watch.saw(self._context.launcher.cluster())
        except RayUnreachable as away:
            if watch.cluster is not None:
                log.warning("%s", away)
            watch.missed(str(away))
        return watch.cluster

    def _check_drivers(self, held: Held) -> None:
        with self._context.database.read() as session:
            drivers = _drivers(session)
        for driver in drivers:
            try:
                why = self._why_lost(driver)
                if why:
                    self._lose(held, driver, why)
            except RayUnreachable as silent:  # of one driver; the others and the queue do not wait for it
                log.warning("attempt %s cannot be checked: %s", driver.attempt_id, silent)

    def _why_lost(self, driver: Driver) -> str:
        """What became of a driver, as a sentence; empty while it does well, or may yet."""
        settings, now = self._context.settings, self._clock()
        heard = driver.heard_at
        # While this service slept nobody could be heard: silence counts from its start.
        quiet_s = (now - max(heard or driver.begun_at, self._born_at)).total_seconds()
        patience_s = settings.driver_lost_s if heard else settings.driver_start_s
        overdue = driver.stop_asked_at is not None and now - driver.stop_asked_at > timedelta(
            seconds=settings.stop_grace_s
        )
        if heard and quiet_s < QUIET_HEARTBEATS * settings.heartbeat_s and not overdue:
            return ""
        status = self._context.launcher.status(driver.attempt_id)
        if status not in ALIVE:
            if status is JobStatus.UNKNOWN:
                return "Ray does not know the driver any more; was Ray started anew?" if quiet_s > 1 else ""
            return f"the driver ended ({status}) without a last word"
        if overdue:
            return f"the driver did not stop within {settings.stop_grace_s:g} s and was stopped from outside"
        if quiet_s > patience_s:
            return f"the driver was silent for {quiet_s:.0f} s"
        return ""

    def _lose(self, held: Held, driver: Driver, why: str) -> None:
        launcher, tail = self._context.launcher, ""
        try:
            tail = _tail(launcher.logs(driver.attempt_id))
        except RayUnreachable as error:  # Ray answers 500 to a log that is not UTF-8, or of a node that died
            log.warning("the log of %s cannot be read: %s", driver.attempt_id, error)
        try:
            launcher.stop(driver.attempt_id)
        except RayUnreachable as error:  # should it live on, its next heartbeat is refused and it stops by itself
            log.warning("attempt %s cannot be stopped: %s", driver.attempt_id, error)
        why = f"{why}; its log ends: {tail}" if tail else why
        log.warning("attempt %s is lost: %s", driver.attempt_id, why)
        now = self._clock()
        with self._context.database.write() as session:
            hold(session, held)
            experiment = experiments.find(session, driver.experiment_id, lock=True)
            attempt = attempts.current(session, experiment)
            spoke = attempt is not None and attempt.last_heartbeat_at != driver.heard_at
            if attempt is None or attempt.id != driver.attempt_id or attempt.state not in OPEN or spoke:
                return  # it spoke, or ended, while we asked
            attempts.lose(session, experiment, attempt, why, now, self._context.retries)

    def _share_out(self, held: Held, cluster: Cluster) -> dict[str, int]:
        """Write the new shares of the running; return those of the queued that may start."""
        now = self._clock()
        with self._context.database.write() as session:
            hold(session, held)
            active = _active(session)
            done = _ended_trials(session, [e.id for e in active])
            demands = [_demand(experiment, done.get(experiment.id, 0), cluster) for experiment in active]
            waiting = {e.id for e in active if e.retry_at is not None and e.retry_at > now}
            shares = allocate(cluster, [d for d in demands if d.experiment_id not in waiting])
            starting: dict[str, int] = {}
            for experiment, demand in zip(active, demands, strict=True):
                slots = shares.get(experiment.id, 0)
                if experiment.state != State.QUEUED:
                    if experiment.slots != slots:
                        experiment.slots = slots
                elif slots:
                    starting[experiment.id] = slots
                elif experiment.id not in waiting:
                    misfits = experiments.misfits(cluster, demand.cpus, demand.gpus)
                    reason = "waiting for free slots"
                    if not cluster.nodes:
                        reason = "waiting for a node: the cluster has none yet"
                    elif misfits:
                        reason = f"waiting for a larger node: {misfits[0].field}: {misfits[0].rule}"
                    if experiment.reason != reason:
                        experiment.reason = reason
            return starting

    def _launch(self, held: Held, experiment_id: str, slots: int, cluster: Cluster) -> None:
        settings, now = self._context.settings, self._clock()
        with self._context.database.write() as session:
            hold(session, held)
            experiment = experiments.find(session, experiment_id, lock=True)
            if experiment.state != State.QUEUED:
                return
            try:
                spec = experiments.complete(ExperimentSpec.model_validate(experiment.spec), cluster)
            except (ValidationError, SpecError) as error:
                reason = f"its spec cannot be run by this version: {error}"
                experiments.move(experiment, State.ERROR, now, reason)
                return
            # Decided late when Ray was away at submission; nothing else of a stored spec changes.
            if experiment.spec.get("resources", {}).get("gpus_per_trial") is None:
                experiment.spec = spec.model_dump(mode="json")
            attempt, token = attempts.begin(session, experiment, slots, now)
            stored = dict(experiment.spec)
        launch = Launch(
            experiment_id=experiment_id,
            attempt=attempt.number,
            attempt_id=attempt.id,
            service_url=settings.service_url,
            token=token,
            heartbeat_s=settings.heartbeat_s,
            slots=slots,
            mlflow_tracking_uri=settings.mlflow_tracking_uri,
            mlflow_username=settings.mlflow_username,
            mlflow_password=settings.mlflow_password,
            storage=str(settings.storage_root / experiment_id),
            data_root=str(settings.data_root),
            cache_root=str(settings.cache_root),
        )
        self._submit(held, launch, stored)

    def _submit(self, held: Held, launch: Launch, spec: dict[str, Any]) -> None:
        failure = ""
        try:
            self._context.launcher.prepare(launch, spec)
            self._context.launcher.launch(launch)
            log.info("launched %s with %d slots", launch.attempt_id, launch.slots)
        except (RayUnreachable, OSError) as error:
            failure = f"the driver could not be started: {error}"
            log.warning("%s: %s", launch.attempt_id, failure)
        now = self._clock()
        with self._context.database.write() as session:
            hold(session, held)
            experiment = experiments.find(session, launch.experiment_id, lock=True)
            attempt = session.get_one(Attempt, launch.attempt_id)
            if not failure:
                attempt.submitted_at = now
            elif attempt.state in OPEN and attempt.number == experiment.attempt:
                attempts.withdraw(session, experiment, attempt, failure, now, self._context.retries)


def _drivers(session: Session) -> list[Driver]:
    rows = session.execute(
        select(Experiment, Attempt)
        .join(Attempt, (Attempt.experiment_id == Experiment.id) & (Attempt.number == Experiment.attempt))
        .where(Experiment.state.in_(DRIVEN), Attempt.state.in_(OPEN))
    )
    return [
        Driver(
            experiment_id=experiment.id,
            attempt_id=attempt.id,
            number=attempt.number,
            state=State(experiment.state),
            begun_at=attempt.submitted_at or attempt.created_at,
            heard_at=attempt.last_heartbeat_at,
            stop_asked_at=experiment.stop_asked_at,
        )
        for experiment, attempt in rows
    ]


def _active(session: Session) -> list[Experiment]:
    query = select(Experiment).where(Experiment.state.in_({State.QUEUED, *DRIVEN}))
    return list(session.scalars(query.order_by(Experiment.created_at, Experiment.id).with_for_update()))


def _ended_trials(session: Session, ids: list[str]) -> dict[str, int]:
    rows = session.execute(
        select(Trial.experiment_id, func.count())
        .where(Trial.experiment_id.in_(ids), Trial.state.in_(TRIAL_ENDED))
        .group_by(Trial.experiment_id)
    )
    return dict(rows.all())


def _demand(experiment: Experiment, done: int, cluster: Cluster) -> Demand:
    resources = experiment.spec.get("resources", {})
    gpus = resources.get("gpus_per_trial")
    most = max(1, experiment.num_samples - done)  # one for the finalist, when all trials have ended
    return Demand(
        experiment_id=experiment.id,
        cpus=resources.get("cpus_per_trial", 1),
        gpus=(1 if cluster.gpus else 0) if gpus is None else gpus,
        most=min(most, resources.get("max_concurrent_trials") or most),
        running=experiment.state in DRIVEN,
    )


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-LOG_LINES:])[-LOG_CHARACTERS:]
