"""Reconciler: compares what should run with what runs, and acts on the difference.

Owns one thread. In each pass it looks at the cluster, replaces drivers that died or fell silent, assigns slots,
launches queued experiments, and stops drivers that do not stop by themselves. Only the holder of the lease acts; every
write is made under the lease, and no write waits for a network. While Ray is unreachable, nothing changes. It must not
know how Ray is called or how slots are divided.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from typing import Any

from pydantic import ValidationError
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from search_spaces.periodic import PeriodicThread
from search_spaces.problems import SpecError
from search_spaces.protocol import LaunchConfig, sanitize_text
from search_spaces.storage.base import DISK_FULL_ERRNOS, MISPLACED_ERRNOS, UNUSABLE_ERRNOS
from search_spaces.stored import read_controls, read_spec
from search_spaces.tracebacks import last_error
from search_spaces.upgrade import upgrade
from service import logs
from service.adapters.experiment_files import ExperimentFiles
from service.adapters.launcher import ClusterUnreachableError
from service.adapters.storage_identity import StorageLostError
from service.context import AppContext, utc_now
from service.contract.errors import SEE_LOG, ConflictError
from service.contract.states import OPEN, LossCause, State
from service.domain import attempts, continuation, earlier, experiments
from service.domain.cluster import Cluster
from service.domain.retry_policy import Replacement
from service.scheduling import fitting, liveness, metering, pools
from service.scheduling.assignment import Assigned, Limits, assign_slots, slot_nodes
from service.scheduling.borrowing import BorrowingMeter
from service.scheduling.borrowing_keeper import BorrowingKeeper
from service.scheduling.liveness import Driver, DriverSilence, Loss
from service.scheduling.node_requests import NodeRequester
from service.scheduling.reclaim import ReclaimTimer
from service.scheduling.request_ages import RequestAges
from service.scheduling.shares import Share
from service.scheduling.silence import SilenceTimer
from service.store.leases import HeldLease, LeaseLostError, acquire, assert_held, release
from service.store.models import Attempt

LEASE = "queue"
STOP_TIMEOUT_S = 30.0  # a pass waits for answers of Ray; the thread is a daemon
SLOW_PASS_S = 5.0  # what a pass may take besides its pause; a longer gap does not count as silence of a driver
LOG_BYTES = 20_000  # of the end of a lost driver's log, in which its error is looked for
LOG_CHARACTERS = 500  # of that error

log = logging.getLogger(__name__)


class Reconciler:
    """`start` and `stop` the thread; `reconcile_once` is one pass, which tests call themselves.

    `monotonic`: seconds that count as silence of a driver; they must stand still while no heartbeat can arrive.
    """

    def __init__(
        self,
        context: AppContext,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._clock = clock
        self._silence, reclaiming = (
            SilenceTimer(context.settings.reconcile_s + SLOW_PASS_S, monotonic) for _ in range(2)
        )
        self._reclaim = ReclaimTimer(reclaiming)
        self._borrowing = BorrowingKeeper(lambda: BorrowingMeter(context.settings.reconcile_s + SLOW_PASS_S, monotonic))
        self._requester = NodeRequester(context.launcher, context.settings.storage_root, monotonic)
        self._ages = RequestAges(monotonic)
        self._owner = f"{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._thread = PeriodicThread("reconciler", self._run, context.settings.reconcile_s, woken=context.wake)
        self._preloaded = False
        self._held: HeldLease | None = None
        self._completed_fence: int | None = None  # of the lease under which the sums of usage were completed

    @property
    def held(self) -> HeldLease | None:
        """The lease, while this replica holds it."""
        return self._held

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its pass, and give the lease back."""
        self._thread.stop()
        self._thread.join(STOP_TIMEOUT_S)
        if self._held is not None:
            with contextlib.suppress(SQLAlchemyError):  # the lease expires by itself
                release(self._context.database, self._held, self._clock())

    def reconcile_once(self) -> None:
        """Look at the cluster, then act. Raises SQLAlchemyError if the database does not answer, and LeaseLostError."""
        with self._context.measurements.round():
            cluster = self._look()
            self._held = self._acquire()
            self._context.measurements.lease_held = self._held is not None
            if self._held is not None and cluster is not None:
                self._act(self._held, cluster)

    def _run(self) -> None:
        self._preload_once()
        try:
            self.reconcile_once()
        except LeaseLostError as error:
            log.warning("%s", error)
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
        assigned = self._assign_slots(held, cluster)
        for experiment_id, share in assigned.shares.items():
            with _isolating_failures(experiment_id):
                self._launch(held, experiment_id, share, cluster)
        self._requester.ask(assigned.requests)

    def _look(self) -> Cluster | None:
        cache = self._context.cluster_cache
        try:
            cache.record(self._context.launcher.cluster())
        except ClusterUnreachableError as error:
            if str(error) != cache.error:
                log.warning("%s", error)
            cache.record_failure(str(error))
        return cache.cluster

    def _check_drivers(self, held: HeldLease) -> None:
        with self._context.database.read() as session:
            found = liveness.active_drivers(session)
        silences = liveness.measure_silence(self._silence, found)
        for driver in found:
            if not liveness.is_healthy(driver, silences[driver.attempt_id], self._context.settings):
                with _isolating_failures(driver.experiment_id), logs.about(attempt=driver.attempt_id):
                    self._check(held, driver, silences[driver.attempt_id])

    def _check(self, held: HeldLease, driver: Driver, silences: DriverSilence) -> None:
        status = self._context.launcher.status(driver.attempt_id)
        loss = liveness.diagnose(driver, status, silences, self._context.settings)
        if loss is not None and self._lose(held, driver, loss):
            try:
                self._context.launcher.stop(driver.attempt_id)
            except ClusterUnreachableError as error:
                # If it is alive, the answer to its next heartbeat tells it to stop.
                log.warning("attempt %s could not be stopped: %s", driver.attempt_id, error)

    def _lose(self, held: HeldLease, driver: Driver, loss: Loss) -> bool:
        """Mark a driver as lost, unless it sent a heartbeat or ended while Ray was asked. Returns whether it did."""
        log_end = self._end_of_log(driver)
        error = last_error(log_end)[-LOG_CHARACTERS:]
        unexplained = (
            f"; its log, which `rung logs {driver.experiment_id}` shows, ends without an error" if log_end else ""
        )
        why = loss.why + (f"; its log ends with: {error}" if error else unexplained)
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
            mark = attempts.mark_lost if loss.counted else attempts.requeue_unlaunched
            mark(session, experiment, attempt, why, Replacement(now, self._context.retries))
        self._context.measurements.count_loss(loss.cause)
        log.warning("attempt %s is lost: %s", driver.attempt_id, why)
        return True

    def _end_of_log(self, driver: Driver) -> str:
        """The end of the driver's log; if the driver died before it wrote one, of what Ray kept of its output."""
        text = self._context.files(driver.experiment_id).driver_log_end(driver.number, LOG_BYTES)
        try:
            text = text or self._context.launcher.logs(driver.attempt_id)
        except ClusterUnreachableError as error:  # Ray answers 500 to a log that is not UTF-8, or of a node that died
            log.warning("could not read the log of %s: %s", driver.attempt_id, error)
        return sanitize_text(text.strip())

    def _assign_slots(self, held: HeldLease, cluster: Cluster) -> Assigned:
        now, settings = self._clock(), self._context.settings
        limits, placed = Limits(settings.max_drivers, settings.park_s), self._trial_nodes(cluster)
        with self._context.database.write() as session:
            assert_held(session, held, now)
            if held.fence != self._completed_fence:
                metering.complete_month(session, now)
            with self._borrowing.kept(session, held.fence) as meters:
                retries, can_ask = self._context.retries, self._requester.can_ask
                assigned = assign_slots(
                    session, cluster, now, retries, limits, self._reclaim, meters, placed, self._ages, can_ask
                )
        self._completed_fence = held.fence
        return assigned

    def _trial_nodes(self, cluster: Cluster) -> Mapping[str, Sequence[str]]:
        """Where trials run, which matters if there are several nodes; without it, slots are placed all the same."""
        if len(cluster.nodes) < 2:
            return {}
        try:
            return self._context.launcher.trial_nodes()
        except ClusterUnreachableError as error:
            log.warning("slots are shared without the nodes on which trials run: %s", error)
            return {}

    def _launch(self, held: HeldLease, experiment_id: str, share: Share, cluster: Cluster) -> None:
        settings, now = self._context.settings, self._clock()
        with self._context.database.write() as session:
            assert_held(session, held, now)
            experiment = experiments.find(session, experiment_id, lock=True)
            if experiment.state != State.QUEUED:
                return
            try:
                continuation.check_source_unchanged(session, experiment)
                stored = read_spec(experiment.spec)
                nodes = pools.nodes(session)
                spec = fitting.complete(stored, pools.part(cluster, experiment.pool, nodes))
                controls = read_controls(experiment.controls)
            except ConflictError as error:
                experiments.move(session, experiment, State.ERROR, now, str(error))
                return
            except (ValidationError, SpecError) as error:
                why = f"this version of Rung cannot run its spec: {error}"
                experiments.move(session, experiment, State.ERROR, now, why)
                return
            # Ray was unreachable at submission, so this is decided now. Nothing else of a stored spec changes.
            if stored.resources.gpus_per_trial != spec.resources.gpus_per_trial:
                decided = {"gpus_per_trial": spec.resources.gpus_per_trial}
                experiment.spec = experiment.spec | {"resources": experiment.spec.get("resources", {}) | decided}
            if settings.mlflow_workspaces and not experiment.attempt:
                experiment.mlflow_workspace = experiment.team_id
            attempt, token = attempts.start(session, experiment, share.slots, now)
            pool = nodes[experiment.pool].of_types(experiment.allowed_gpu_types)
            experiment.pool_nodes, experiment.slot_nodes = pool.model_dump(), slot_nodes(experiment, share)
            document, source = upgrade(experiment.spec).document, continuation.source_to_import(session, experiment)
            to_read = earlier.to_read(session, experiment, spec)
            cancel_trials = attempts.pending_cancellations(session, experiment)
            trials = experiments.count_started(session, experiment)
            failed_attempt = attempts.failed_before(session, experiment)
            team, workspace, packing = experiment.team_id, experiment.mlflow_workspace, experiment.packing
            owner = experiment.owner or ""
            promised, excluded = experiment.slot_nodes, experiment.excluded_nodes
        user, password = settings.mlflow_username, settings.mlflow_password
        if settings.mlflow_workspaces:  # MLflow asks this service what the attempt may do there
            user, password = attempt.id, token
        launch = LaunchConfig(
            experiment_id=experiment_id,
            attempt=attempt.number,
            attempt_id=attempt.id,
            service_url=settings.service_url,
            token=token,
            heartbeat_s=settings.heartbeat_s,
            slots=share.slots,
            slot_nodes=promised,
            excluded_nodes=excluded or [],
            controls=controls,
            cancel_trials=cancel_trials,
            trials=trials,
            failed_attempt=failed_attempt,
            team=team,
            owner=owner,
            pool=pool,
            packing=packing or None,
            version=version("rung"),
            marker=secrets.token_hex(16),
            mlflow_tracking_uri=settings.mlflow_tracking_uri,
            mlflow_username=user,
            mlflow_password=password,
            mlflow_workspace=workspace,
            storage=self._context.files(experiment_id).address,
            source=source and self._context.files(source).address,
            earlier=None if to_read is None else [self._context.files(one).address for one in to_read],
            data_root=str(settings.data_root),
            cache_root=str(settings.cache_root),
        )
        with logs.about(attempt=attempt.id):
            self._submit(held, launch, document)

    def _submit(self, held: HeldLease, launch: LaunchConfig, spec: dict[str, Any]) -> None:
        files = self._context.files(launch.experiment_id)
        failure, blocked = "", ""
        try:
            self._context.storage.check()
            files.write_launch(launch, spec)
            self._context.launcher.launch(launch)
            log.info("launched %s with %d slots", launch.attempt_id, launch.slots)
        except (ClusterUnreachableError, OSError) as error:
            failure = f"the driver could not be started; {SEE_LOG}"
            blocked = sanitize_text(self._why_blocked(error, files))
            log.warning("%s could not be started: %s%s", launch.attempt_id, error, blocked and f"; {blocked}")
        now = self._clock()
        with self._context.database.write() as session:
            assert_held(session, held, now)
            experiment = experiments.find(session, launch.experiment_id, lock=True)
            attempt = session.get_one(Attempt, launch.attempt_id)
            if not failure:
                attempt.submitted_at = now
            elif attempt.state in OPEN and attempt.number == experiment.attempt:
                attempts.requeue_unlaunched(
                    session, experiment, attempt, failure, Replacement(now, self._context.retries)
                )
                if blocked and experiment.state == State.QUEUED:
                    experiments.block(session, experiment, now, blocked)
        if failure:
            self._context.measurements.count_loss(LossCause.NOT_SUBMITTED)

    def _why_blocked(self, error: Exception, files: ExperimentFiles) -> str:
        """What a person must repair before another attempt makes sense; empty if the failure may be temporary."""
        number = error.errno if isinstance(error, OSError) else None
        root = self._context.settings.storage_root
        if isinstance(error, StorageLostError):
            return f"paused: {error}, then resume"
        if number in DISK_FULL_ERRNOS:
            free = files.free_bytes()
            left = "" if free is None else f" ({free} bytes free)"
            return f"paused: no space left on RUNG_STORAGE_ROOT {root}{left}; free some space, then resume"
        if number in UNUSABLE_ERRNOS:
            return f"paused: RUNG_STORAGE_ROOT {root} is not writable: {error}; make it writable, then resume"
        if number in MISPLACED_ERRNOS:
            return f"paused: something else is in the place of a file: {error}; remove it, then resume"
        return ""


@contextlib.contextmanager
def _isolating_failures(experiment_id: str) -> Iterator[None]:
    """Log an error of one experiment, so that the pass continues with the others. A lost lease or database ends it."""
    with logs.about(experiment=experiment_id):
        try:
            yield
        except (LeaseLostError, OperationalError):
            raise
        except ClusterUnreachableError as error:
            log.warning("skipping experiment %s in this pass: %s", experiment_id, error)
        except Exception:
            log.exception("skipping experiment %s in this pass; the next pass tries again", experiment_id)
