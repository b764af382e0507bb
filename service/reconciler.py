"""Reconciler: compares what should run with what runs, and acts on the difference.

One thread. Each round it looks at the cluster, gives up drivers that died or fell silent, shares out the
slots, launches what is queued, and stops what does not stop by itself. Only the holder of the lease acts;
every write is made under it, and no write waits for a network. While Ray is away nothing changes.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from search_spaces.controls import Controls
from search_spaces.experiment import ExperimentSpec
from search_spaces.problems import SpecError
from search_spaces.protocol import ENDED as TRIAL_ENDED
from search_spaces.protocol import Launch
from service import attempts, experiments
from service.allocation import Cluster, Demand, allocate
from service.attempts import OPEN
from service.context import Context
from service.launcher import ALIVE, JobStatus, RayUnreachable
from service.silence import JUMP_S, Silence, utc_now
from service.states import ACTIVE, DRIVEN, State
from service.storage import free_bytes, tail
from service.store.leases import Held, LeaseLost, acquire, hold, release
from service.store.models import Attempt, Experiment, Trial

LEASE = "queue"
QUIET_HEARTBEATS = 3  # so many missed, and Ray is asked what became of the driver
LOG_LINES = 20
LOG_CHARACTERS = 2_000
FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})

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

    def __init__(
        self,
        context: Context,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._clock = clock
        self._monotonic = monotonic
        self._silence = Silence(clock, monotonic)
        self._owner = f"{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)
        self._held: Held | None = None

    @property
    def held(self) -> Held | None:
        """The lease, while it is ours."""
        return self._held

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its round, and give the lease back."""
        self._stopping.set()
        self._context.wake.set()
        self._thread.join(timeout=30)
        if self._held is not None:
            with contextlib.suppress(SQLAlchemyError):  # it runs out by itself
                release(self._context.database, self._held, self._clock())

    def round(self) -> None:
        """Look, then act. Raises SQLAlchemyError when the database is away, and LeaseLost."""
        self._silence.check_clock()
        cluster = self._look()
        try:
            self._held = self._acquire()
            if self._held is not None and cluster is not None:
                self._act(self._held, cluster)
        except SQLAlchemyError:
            self._silence.count_anew("the database did not answer")  # nor could it keep what drivers said
            raise

    def _run(self) -> None:
        try:
            self._context.launcher.warm()
        except Exception:
            log.exception("Ray's client cannot be imported ahead of time; it is tried again when it is needed")
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
            self._sleep()

    def _sleep(self) -> None:
        before = self._monotonic()
        self._context.wake.wait(self._context.settings.reconcile_s)
        if self._monotonic() - before > self._context.settings.reconcile_s + JUMP_S:
            self._silence.count_anew("this service stood still")

    def _acquire(self) -> Held | None:
        return acquire(self._context.database, LEASE, self._owner, self._context.settings.lease_s, self._clock())

    def _act(self, held: Held, cluster: Cluster) -> None:
        self._check_drivers(held)
        for experiment_id, slots in self._share_out(held, cluster).items():
            self._launch(held, experiment_id, slots, cluster)

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
        settings, heard = self._context.settings, driver.heard_at
        quiet_s = self._silence.seconds(heard or driver.begun_at)
        patience_s = settings.driver_lost_s if heard else settings.driver_start_s
        stop = driver.stop_asked_at
        overdue = stop is not None and self._silence.seconds(stop) > settings.stop_grace_s
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
        said = self._last_words(driver)
        try:
            self._context.launcher.stop(driver.attempt_id)
        except RayUnreachable as error:  # should it live on, its next heartbeat is refused and it stops by itself
            log.warning("attempt %s cannot be stopped: %s", driver.attempt_id, error)
        why = f"{why}; its log ends: {said}" if said else why
        log.warning("attempt %s is lost: %s", driver.attempt_id, why)
        now = self._clock()
        with self._context.database.write() as session:
            hold(session, held, now)
            experiment = experiments.find(session, driver.experiment_id, lock=True)
            attempt = attempts.current(session, experiment)
            spoke = attempt is not None and attempt.last_heartbeat_at != driver.heard_at
            if attempt is None or attempt.id != driver.attempt_id or attempt.state not in OPEN or spoke:
                return  # it spoke, or ended, while we asked
            attempts.lose(session, experiment, attempt, why, now, self._context.retries)

    def _last_words(self, driver: Driver) -> str:
        """The end of the driver's log: what Ray kept, where it died before it had one of its own."""
        kept = self._context.storage(driver.experiment_id).driver_log(driver.number)
        said = tail(kept, LOG_CHARACTERS)
        try:
            said = said or self._context.launcher.logs(driver.attempt_id)
        except RayUnreachable as error:  # Ray answers 500 to a log that is not UTF-8, or of a node that died
            log.warning("the log of %s cannot be read: %s", driver.attempt_id, error)
        return "\n".join(said.strip().splitlines()[-LOG_LINES:])[-LOG_CHARACTERS:].replace("\0", "")

    def _share_out(self, held: Held, cluster: Cluster) -> dict[str, int]:
        """Write the new shares of the running; return those of the queued that may start."""
        now = self._clock()
        with self._context.database.write() as session:
            hold(session, held, now)
            active = _active(session)
            done = _ended_trials(session, [e.id for e in active])
            demands = [_demand(experiment, done.get(experiment.id, 0), cluster) for experiment in active]
            waiting = {e.id for e in active if self._is_to_wait(e, now)}
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

    def _is_to_wait(self, experiment: Experiment, now: datetime) -> bool:
        """Whether its next attempt is not due yet. A wait longer than any wait was written before the clock was set."""
        if experiment.retry_at is None:
            return False
        longest = self._context.retries.wait(max(1, experiment.failures))
        return timedelta(0) < experiment.retry_at - now <= longest

    def _launch(self, held: Held, experiment_id: str, slots: int, cluster: Cluster) -> None:
        settings, now = self._context.settings, self._clock()
        with self._context.database.write() as session:
            hold(session, held, now)
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
            stored, controls = dict(experiment.spec), Controls.model_validate(experiment.controls)
            source = experiment.source_id
        launch = Launch(
            experiment_id=experiment_id,
            attempt=attempt.number,
            attempt_id=attempt.id,
            service_url=settings.service_url,
            token=token,
            heartbeat_s=settings.heartbeat_s,
            slots=slots,
            controls=controls,
            mlflow_tracking_uri=settings.mlflow_tracking_uri,
            mlflow_username=settings.mlflow_username,
            mlflow_password=settings.mlflow_password,
            storage=str(self._context.storage(experiment_id).folder),
            source=source and str(self._context.storage(source).folder),
            data_root=str(settings.data_root),
            cache_root=str(settings.cache_root),
        )
        self._submit(held, launch, stored)

    def _submit(self, held: Held, launch: Launch, spec: dict[str, Any]) -> None:
        failure, blocked = "", ""
        try:
            self._context.launcher.prepare(launch, spec)
            self._context.launcher.launch(launch)
            log.info("launched %s with %d slots", launch.attempt_id, launch.slots)
        except (RayUnreachable, OSError) as error:
            failure = f"the driver could not be started: {error}"
            blocked = self._why_blocked(error)
            log.warning("%s: %s%s", launch.attempt_id, failure, blocked and f"; {blocked}")
        now = self._clock()
        with self._context.database.write() as session:
            hold(session, held, now)
            experiment = experiments.find(session, launch.experiment_id, lock=True)
            attempt = session.get_one(Attempt, launch.attempt_id)
            if not failure:
                attempt.submitted_at = now
            elif attempt.state in OPEN and attempt.number == experiment.attempt:
                attempts.withdraw(session, experiment, attempt, failure, now, self._context.retries)
                if blocked and experiment.state == State.QUEUED:
                    experiments.move(experiment, State.PAUSED, now, blocked)

    def _why_blocked(self, error: Exception) -> str:
        """What a person must do before another attempt is of use, as a sentence; empty where it may just pass."""
        if not isinstance(error, OSError) or error.errno not in FULL_DISK:
            return ""
        root = self._context.settings.storage_root
        free = free_bytes(root)
        left = "no room is left" if free is None else f"{free} bytes are left"
        return f"paused, the disk is full: RUNG_STORAGE_ROOT {root}: room for the experiment's files required, {left}"


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
    query = select(Experiment).where(Experiment.state.in_(ACTIVE))
    return list(session.scalars(query.order_by(Experiment.created_at, Experiment.id).with_for_update()))


def _ended_trials(session: Session, ids: list[str]) -> dict[str, int]:
    rows = session.execute(
        select(Trial.experiment_id, func.count())
        .where(Trial.experiment_id.in_(ids), Trial.state.in_(TRIAL_ENDED))
        .group_by(Trial.experiment_id)
    )
    return dict(rows.all())


def _demand(experiment: Experiment, done: int, cluster: Cluster) -> Demand:
    resources, limit = experiment.spec.get("resources", {}), experiment.controls["max_concurrent_trials"]
    gpus = resources.get("gpus_per_trial")
    most = max(1, experiment.controls["num_samples"] - done)  # one for the finalist, when all trials have ended
    return Demand(
        experiment_id=experiment.id,
        cpus=resources.get("cpus_per_trial", 1),
        gpus=(1 if cluster.gpus else 0) if gpus is None else gpus,
        most=min(most, limit or most),
        running=experiment.state in DRIVEN,
        priority=experiment.controls["priority"],
    )
