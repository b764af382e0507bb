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
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from search_spaces.controls import Controls
from search_spaces.periodic import PeriodicThread
from search_spaces.problems import SpecError
from search_spaces.protocol import DISK_FULL_ERRNOS, LaunchConfig, sanitize_text
from search_spaces.stored import read_spec
from search_spaces.upgrade import upgrade
from service.adapters.experiment_files import free_bytes, read_tail
from service.adapters.launcher import ClusterUnreachableError
from service.context import AppContext, utc_now
from service.contract.states import State
from service.domain import attempts, continuation, experiments
from service.domain.attempts import OPEN
from service.domain.cluster import Cluster
from service.domain.retry_policy import Transition
from service.scheduling import fitting, liveness
from service.scheduling.assignment import assign_slots
from service.scheduling.liveness import Driver, DriverSilence, Loss
from service.scheduling.silence import SilenceTimer
from service.store.leases import HeldLease, LeaseLostError, acquire, assert_held, release
from service.store.models import Attempt

LEASE = "queue"
STOP_TIMEOUT_S = 30.0  # a pass waits for answers of Ray; the thread is a daemon
SLOW_ROUND_S = 5.0  # what a round may take beside its pause; silence beyond that is the service's own
LOG_LINES = 20
LOG_CHARACTERS = 2_000
NOT_WRITABLE = frozenset({errno.EACCES, errno.EROFS})

log = logging.getLogger(__name__)


class Reconciler:
    """`start` and `stop` the thread; `round` is one turn of it, for tests and for the curious."""

    def __init__(
        self,
        context: AppContext,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._clock = clock
        self._silence = SilenceTimer(context.settings.reconcile_s + SLOW_ROUND_S, monotonic)
        self._owner = f"{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._thread = PeriodicThread("reconciler", self._run, context.settings.reconcile_s, woken=context.wake)
        self._preloaded = False
        self._held: HeldLease | None = None

    @property
    def held(self) -> HeldLease | None:
        """The lease, while it is ours."""
        return self._held

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its round, and give the lease back."""
        self._thread.stop()
        self._thread.join(STOP_TIMEOUT_S)
        if self._held is not None:
            with contextlib.suppress(SQLAlchemyError):  # it runs out by itself
                release(self._context.database, self._held, self._clock())

    def reconcile_once(self) -> None:
        """Look, then act. Raises SQLAlchemyError when the database is away, and LeaseLostError."""
        cluster = self._look()
        self._held = self._acquire()
        if self._held is not None and cluster is not None:
            self._act(self._held, cluster)

    def _run(self) -> None:
        self._preload_once()
        try:
            self.reconcile_once()
        except LeaseLostError as error:
            log.warning("%s", error)
        except ClusterUnreachableError as error:
            self._context.cluster_cache.record_failure(str(error))
        except SQLAlchemyError as error:
            log.warning("the database does not answer: %s", error)

    def _preload_once(self) -> None:
        if self._preloaded:
            return
        self._preloaded = True
        try:
            self._context.launcher.preload()
        except Exception:
            log.exception("Ray's client could not be imported ahead of time; it is imported when it is needed")

    def _acquire(self) -> HeldLease | None:
        return acquire(self._context.database, LEASE, self._owner, self._context.settings.lease_s, self._clock())

    def _act(self, held: HeldLease, cluster: Cluster) -> None:
        self._check_drivers(held)
        for experiment_id, slots in self._assign_slots(held, cluster).items():
            with _isolating_failures(experiment_id):
                self._launch(held, experiment_id, slots, cluster)

    def _look(self) -> Cluster | None:
        cache = self._context.cluster_cache
        try:
            cache.record(self._context.launcher.cluster())
        except ClusterUnreachableError as away:
            if str(away) != cache.unreachable_reason:
                log.warning("%s", away)
            cache.record_failure(str(away))
        return cache.cluster

    def _check_drivers(self, held: HeldLease) -> None:
        with self._context.database.read() as session:
            found = liveness.active_drivers(session)
        silences = liveness.measure_silence(self._silence, found)
        for driver in found:
            if not liveness.is_healthy(driver, silences[driver.attempt_id], self._context.settings):
                with _isolating_failures(driver.experiment_id):
                    self._check(held, driver, silences[driver.attempt_id])

    def _check(self, held: HeldLease, driver: Driver, silences: DriverSilence) -> None:
        status = self._context.launcher.status(driver.attempt_id)
        loss = liveness.diagnose(driver, status, silences, self._context.settings)
        if loss is not None and self._lose(held, driver, loss):
            try:
                self._context.launcher.stop(driver.attempt_id)
            except (
                ClusterUnreachableError
            ) as error:  # should it live on, its next heartbeat is refused and it stops by itself
                log.warning("attempt %s cannot be stopped: %s", driver.attempt_id, error)

    def _lose(self, held: HeldLease, driver: Driver, loss: Loss) -> bool:
        """Write down that a driver is given up, unless it spoke, or ended, while Ray was asked. Only then stop it."""
        said = self._last_words(driver)
        why = f"{loss.why}; its log ends: {said}" if said else loss.why
        now = self._clock()
        with self._context.database.write() as session:
            assert_held(session, held, now)
            experiment = experiments.find(session, driver.experiment_id, lock=True)
            attempt = attempts.current(session, experiment)
            if attempt is None or attempt.id != driver.attempt_id or attempt.state not in OPEN:
                return False
            seen = liveness.snapshot(experiment, attempt)
            if seen != (driver if loss.cleared_by_heartbeat else replace(driver, heard_at=seen.heard_at)):
                return False
            give_up = attempts.mark_lost if loss.counted else attempts.requeue_unlaunched
            give_up(session, experiment, attempt, why, Transition(now, self._context.retries))
        log.warning("attempt %s is lost: %s", driver.attempt_id, why)
        return True

    def _last_words(self, driver: Driver) -> str:
        """The end of the driver's log: what Ray kept, where it died before it had one of its own."""
        kept = self._context.files(driver.experiment_id).driver_log(driver.number)
        said = read_tail(kept, LOG_CHARACTERS)
        try:
            said = said or self._context.launcher.logs(driver.attempt_id)
        except ClusterUnreachableError as error:  # Ray answers 500 to a log that is not UTF-8, or of a node that died
            log.warning("the log of %s cannot be read: %s", driver.attempt_id, error)
        return sanitize_text("\n".join(said.strip().splitlines()[-LOG_LINES:])[-LOG_CHARACTERS:])

    def _assign_slots(self, held: HeldLease, cluster: Cluster) -> dict[str, int]:
        now = self._clock()
        with self._context.database.write() as session:
            assert_held(session, held, now)
            return assign_slots(session, cluster, now, self._context.retries)

    def _launch(self, held: HeldLease, experiment_id: str, slots: int, cluster: Cluster) -> None:
        settings, now = self._context.settings, self._clock()
        with self._context.database.write() as session:
            assert_held(session, held, now)
            experiment = experiments.find(session, experiment_id, lock=True)
            if experiment.state != State.QUEUED:
                return
            try:
                stored = read_spec(experiment.spec)
                spec = fitting.complete(stored, cluster)
                controls = Controls.model_validate(experiment.controls)
            except (ValidationError, SpecError) as error:
                attempts.fail_unlaunchable(session, experiment, f"its spec cannot be run by this version: {error}", now)
                return
            # Decided late when Ray was away at submission; nothing else of a stored spec changes.
            if stored.resources.gpus_per_trial is None:
                experiment.spec = spec.model_dump(mode="json")
            attempt, token = attempts.start(session, experiment, slots, now)
            document, source = upgrade(experiment.spec).document, continuation.source_to_import(session, experiment)
            cancel_trials = attempts.pending_cancellations(session, experiment)
            trials = experiments.count_started(session, experiment)
        launch = LaunchConfig(
            experiment_id=experiment_id,
            attempt=attempt.number,
            attempt_id=attempt.id,
            service_url=settings.service_url,
            token=token,
            heartbeat_s=settings.heartbeat_s,
            slots=slots,
            controls=controls,
            cancel_trials=cancel_trials,
            trials=trials,
            mlflow_tracking_uri=settings.mlflow_tracking_uri,
            mlflow_username=settings.mlflow_username,
            mlflow_password=settings.mlflow_password,
            storage=str(self._context.files(experiment_id).folder),
            source=source and str(self._context.files(source).folder),
            data_root=str(settings.data_root),
            cache_root=str(settings.cache_root),
        )
        self._submit(held, launch, document)

    def _submit(self, held: HeldLease, launch: LaunchConfig, spec: dict[str, Any]) -> None:
        failure, blocked = "", ""
        try:
            self._context.launcher.prepare(launch, spec)
            self._context.launcher.launch(launch)
            log.info("launched %s with %d slots", launch.attempt_id, launch.slots)
        except (ClusterUnreachableError, OSError) as error:
            failure = sanitize_text(f"the driver could not be started: {error}")
            blocked = sanitize_text(self._why_blocked(error))
            log.warning("%s: %s%s", launch.attempt_id, failure, blocked and f"; {blocked}")
        now = self._clock()
        with self._context.database.write() as session:
            assert_held(session, held, now)
            experiment = experiments.find(session, launch.experiment_id, lock=True)
            attempt = session.get_one(Attempt, launch.attempt_id)
            if not failure:
                attempt.submitted_at = now
            elif attempt.state in OPEN and attempt.number == experiment.attempt:
                attempts.requeue_unlaunched(
                    session, experiment, attempt, failure, Transition(now, self._context.retries)
                )
                if blocked and experiment.state == State.QUEUED:
                    experiments.move(session, experiment, State.PAUSED, now, blocked)

    def _why_blocked(self, error: Exception) -> str:
        """What a person must do before another attempt is of use, as a sentence; empty where it may just pass."""
        number = error.errno if isinstance(error, OSError) else None
        root = self._context.settings.storage_root
        if number in DISK_FULL_ERRNOS:
            free = free_bytes(root)
            left = "no room is left" if free is None else f"{free} bytes are left"
            return (
                f"paused, the disk is full: RUNG_STORAGE_ROOT {root}: room for the experiment's files required, {left}"
            )
        if number in NOT_WRITABLE:
            return (
                f"paused, the storage cannot be written: RUNG_STORAGE_ROOT {root}: leave to write required, got {error}"
            )
        return ""


@contextlib.contextmanager
def _isolating_failures(experiment_id: str) -> Iterator[None]:
    """What is wrong with one experiment; the others do not wait for it. A lost lease or database is for all."""
    try:
        yield
    except (LeaseLostError, OperationalError):
        raise
    except ClusterUnreachableError as silent:
        log.warning("experiment %s cannot be looked after: %s", experiment_id, silent)
    except Exception:
        log.exception("experiment %s cannot be looked after; the next round tries again", experiment_id)
