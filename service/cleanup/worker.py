"""CleanupWorker: the thread that finalizes ended experiments and removes what has expired.

Owns when each experiment is handled: the oldest first, one that fails after growing delays, and while MLflow is
unavailable only those that do not need it. `finalizer` handles one experiment, `retention` removes what has expired. It
is a separate thread because MLflow and shared file systems are slow. It acts only while the reconciler holds the lease.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from service import logs
from service.cleanup import finalizer
from service.cleanup.finalizer import EndedExperiment, Finalizer, RetryLaterError
from service.cleanup.retention import Retention
from service.context import AppContext, utc_now
from service.contract.errors import SEE_LOG, UnavailableError
from service.contract.states import ENDED, State
from service.store.leases import HeldLease, LeaseLostError
from service.store.models import Experiment
from service.worker import Worker

INTERVAL_S = 2.0
STOP_TIMEOUT_S = 30.0  # deleting a large folder may take longer
UNAVAILABLE_S = 10.0  # before MLflow is asked again after it did not answer
FIRST_DELAY_S, LONGEST_DELAY_S = 10.0, 600.0  # after a failure; doubled each time
SWEEP_S = 300.0  # between two removals of what has expired
BATCH_SIZE = 20  # experiments of one pass, so that stopping the service does not wait long

log = logging.getLogger(__name__)


class CleanupWorker(Worker):
    """`held` returns the lease."""

    def __init__(
        self,
        context: AppContext,
        held: Callable[[], HeldLease | None],
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            "cleanup",
            interval_s=INTERVAL_S,
            stop_timeout_s=STOP_TIMEOUT_S,
            passing=(LeaseLostError, SQLAlchemyError),
            complaint="cleanup failed and will be retried",
        )
        self._context = context
        self._held = held
        self._clock = clock
        self._monotonic = monotonic
        self._finalizer = Finalizer(context, clock)
        self._retention = Retention(context, clock)
        self._unavailable_at = self._swept_at = float("-inf")
        self._failures: dict[str, int] = {}
        self._due_at: dict[str, float] = {}

    def run_once(self) -> None:
        """Handle what is due. Raises SQLAlchemyError, and LeaseLostError if another replica has taken over."""
        if (held := self._held()) is None:
            return
        for ended in self._waiting():
            if self.stopped:
                return
            with logs.about(experiment=ended.id):
                if not self._finalize(held, ended):
                    break
        if self._monotonic() - self._swept_at >= SWEEP_S:
            self._swept_at = self._monotonic()
            self._retention.sweep(held)

    def _waiting(self) -> list[EndedExperiment]:
        """The oldest experiments that are due."""
        now = self._monotonic()
        put_off = [experiment_id for experiment_id, due_at in self._due_at.items() if due_at > now]
        open_in_mlflow = Experiment.state.in_(ENDED) & Experiment.mlflow_closed.is_(False)
        query = select(Experiment).where((Experiment.state == State.DELETING) | open_in_mlflow)
        query = query.where(Experiment.id.not_in(put_off))
        if now - self._unavailable_at < UNAVAILABLE_S:
            query = query.where(Experiment.attempt == 0)  # it never started, so it has no runs
        oldest = query.order_by(Experiment.ended_at.nulls_first(), Experiment.id)  # deleted while paused: no end time
        with self._context.database.read() as session:
            return [finalizer.of(found, self._clock()) for found in session.scalars(oldest.limit(BATCH_SIZE))]

    def _finalize(self, held: HeldLease, ended: EndedExperiment) -> bool:
        """Finalize one. Returns whether to continue: not while MLflow is unavailable. Raises as `run_once`."""
        try:
            self._finalizer.finalize(held, ended)
        except (LeaseLostError, OperationalError):  # not an error of this experiment
            raise
        except UnavailableError as error:
            log.warning("experiment %s: %s", ended.id, error.detail)
            unavailable = bool(self._context.mlflow_probe.unavailable_reason())
            if unavailable:
                self._unavailable_at = self._monotonic()
            else:
                self._put_off(ended)
            self._finalizer.report_blocker(held, ended, f"MLflow is unavailable; {SEE_LOG}")
            return not unavailable
        except RetryLaterError as error:
            log.info("experiment %s waits: %s", ended.id, error)
            self._put_off(ended)
        except OSError as error:
            log.warning("could not remove the files of experiment %s: %s", ended.id, error)
            self._put_off(ended)
            self._finalizer.report_blocker(held, ended, f"could not remove its files; {SEE_LOG}")
        except Exception:
            log.exception("could not finalize experiment %s", ended.id)
            self._put_off(ended)
            self._finalizer.report_blocker(held, ended, f"internal error; {SEE_LOG}")
        else:
            self._failures.pop(ended.id, None)
            self._due_at.pop(ended.id, None)
        return True

    def _put_off(self, ended: EndedExperiment) -> None:
        """Handle it again after a delay, twice as long as the last one."""
        failures = self._failures[ended.id] = self._failures.get(ended.id, 0) + 1
        delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(failures - 1, 10))
        self._due_at[ended.id] = self._monotonic() + delay_s
