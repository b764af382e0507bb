"""Retention: how long idempotency keys, used ID tokens and files of experiments are kept, and their removal.

Owns the ages. It must not know MLflow, or what the finalizer does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.context import AppContext
from service.contract.states import ENDED, OPEN
from service.domain import continuation, idempotency, team_storage
from service.identity import used_id_tokens
from service.store.leases import HeldLease, LeaseLostError, assert_held
from service.store.models import Attempt, Experiment

KEY_RETENTION = timedelta(hours=24)
LOOK_BACK = timedelta(hours=1)  # for rows that were written late, or by a clock that is behind

log = logging.getLogger(__name__)


class Retention:
    """`sweep` removes what has expired. An error with one experiment's files is logged and does not stop the others."""

    def __init__(self, context: AppContext, clock: Callable[[], datetime]) -> None:
        self._context = context
        self._clock = clock
        self._launches_from: datetime | None = None
        self._clean: set[tuple[str, int]] = set()

    def sweep(self, held: HeldLease) -> None:
        """Raises SQLAlchemyError, LeaseLostError."""
        with self._context.database.write() as session:
            assert_held(session, held, self._clock())
            idempotency.delete_before(session, self._clock() - KEY_RETENTION)
            used_id_tokens.delete_old(session, self._clock())
        try:
            self._context.storage.check()  # elsewhere it would find nothing to remove, and not look again
        except OSError as error:
            log.warning("nothing that has expired is removed: %s", error)
            return
        self._remove_launch_configs()
        self._remove_disposable(held)

    def _remove_launch_configs(self) -> None:
        """Remove the launch files of ended drivers. A driver that starts late must not find one."""
        now, complete = self._clock(), True
        query = select(Attempt.experiment_id, Attempt.number).where(Attempt.state.not_in(OPEN))
        if self._launches_from is not None:
            query = query.where(Attempt.ended_at > self._launches_from - LOOK_BACK)
        with self._context.database.read() as session:
            ended = session.execute(query).all()
        for experiment_id, number in ended:
            try:
                self._context.files(experiment_id).remove_launch_config(number)
            except OSError as error:
                complete = False
                log.warning(
                    "could not remove the launch file of attempt %d of experiment %s: %s", number, experiment_id, error
                )
        if complete:
            self._launches_from = now

    def _remove_disposable(self, held: HeldLease) -> None:
        with self._context.database.read() as session:
            found = [expired for expired in self._expired(session) if expired not in self._clean]
        for experiment_id, attempt in found:
            try:
                with self._context.database.read() as session:  # minutes may have passed
                    if not self._expired(session, experiment_id):
                        continue
                began, files = self._clock(), self._context.files(experiment_id)
                freed = files.remove_disposable()
                left = sum(files.sizes().values())
                with self._context.database.write() as session:
                    assert_held(session, held, self._clock())
                    team_storage.record(session, experiment_id, left, began)
            except (SQLAlchemyError, LeaseLostError):
                raise
            except Exception:
                log.exception("could not remove the files of experiment %s", experiment_id)
                continue
            self._clean.add((experiment_id, attempt))
            if freed:
                log.info("removed %d bytes of experiment %s: its files have expired", freed, experiment_id)

    def _expired(self, session: Session, experiment_id: str | None = None) -> list[tuple[str, int]]:
        """Ids and attempts of experiments whose files have expired; of all, or of one.

        Those whose trials a continuation has not imported yet are left out.
        """
        days = self._context.settings.keep_files_days
        if days is None:
            return []
        query = select(Experiment.id, Experiment.attempt).where(
            Experiment.state.in_(ENDED),
            Experiment.ended_at < self._clock() - timedelta(days=days),
            Experiment.id.not_in(select(Experiment.source_id).where(continuation.has_pending_import())),
        )
        if experiment_id is not None:
            query = query.where(Experiment.id == experiment_id)
        return [(found, attempt) for found, attempt in session.execute(query)]
