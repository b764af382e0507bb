"""Access: how a route gets an experiment. The only lookup of one by its id, so that permissions have one home.

A route declares `VisibleExperiment` to read an experiment, `EditableExperiment` to change it, and `ExperimentList` to
list them. What a person may see and change is decided here, in `_find` and in `ExperimentListHandle`. Each is a handle
on which the route opens a transaction in its own thread (docs/decisions/0012-routes-open-their-transactions.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Response
from sqlalchemy.orm import Session

from search_spaces.protocol import API_PREFIX
from service.api import etags, headers, serializers
from service.api.dependencies import CurrentContext, ExperimentId, IfMatchHeader
from service.api.etags import IfMatch
from service.context import AppContext
from service.contract.schemas import ExperimentView
from service.domain import attempts, experiments
from service.domain.experiments import Selection
from service.store.models import Experiment


@dataclass(frozen=True)
class VisibleHandle:
    """An experiment that the caller may see."""

    context: AppContext
    response: Response
    experiment_id: str

    @contextmanager
    def read(self) -> Iterator[tuple[Session, Experiment]]:
        """One snapshot of the database, and the experiment in it. Raises NotFoundError."""
        with self.context.database.read() as session:
            yield session, _find(session, self.experiment_id)

    def show(self) -> ExperimentView:
        """The experiment as the response's body, its revision as the ETag. Raises NotFoundError."""
        with self.read() as (session, experiment):
            return self._view(session, experiment)

    def _view(self, session: Session, experiment: Experiment) -> ExperimentView:
        counts = experiments.count_trials(session, [experiment.id])[experiment.id]
        self.response.headers[headers.ETAG] = etags.etag(experiment.revision)
        drivers = attempts.list_all(session, experiment)
        return serializers.full(
            experiment, counts, drivers, self.context.mlflow, self.context.cluster_cache.unreachable_reason
        )


@dataclass(frozen=True)
class EditableHandle(VisibleHandle):
    """An experiment that the caller may change, if it is at the revision that If-Match gives."""

    if_match: IfMatch

    def lock(self, session: Session) -> Experiment:
        """The experiment, locked for the session's transaction. Raises NotFoundError, PreconditionFailedError."""
        experiment = _find(session, self.experiment_id, lock=True)
        self.if_match.check(experiment.id, experiment.revision)
        return experiment

    @contextmanager
    def edit(self) -> Iterator[tuple[Session, Experiment]]:
        """A transaction with the locked experiment; when it is committed, the reconciler looks at the change."""
        with self.context.database.write() as session:
            yield session, self.lock(session)
        self.context.wake.set()

    def apply(self, action: Callable[[Session, Experiment, datetime], None]) -> ExperimentView:
        """The experiment after the action. It is read before the commit: a deletion may be complete right after."""
        with self.edit() as (session, experiment):
            action(session, experiment, datetime.now(UTC))
            return self._view(session, experiment)


@dataclass(frozen=True)
class ExperimentListHandle:
    """The experiments that the caller may see."""

    context: AppContext

    def newest(self, session: Session, selection: Selection) -> list[Experiment]:
        """The selected ones, newest first."""
        return experiments.list_newest(session, selection)

    def active(self, session: Session, limit: int, after: tuple[datetime, str] | None) -> list[Experiment]:
        """Those that run or wait to run, oldest first, from `after` on: creation time and id of an older one."""
        return experiments.list_active(session, limit, after)


def created(context: AppContext, response: Response, experiment_id: str, replayed: bool) -> ExperimentView:
    """The response to a submission that created an experiment, now or (`replayed`) when its key was sent first."""
    response.headers[headers.LOCATION] = f"{API_PREFIX}/experiments/{experiment_id}"
    if replayed:
        response.headers[headers.REPLAYED] = "true"
    return VisibleHandle(context, response, experiment_id).show()


def _find(session: Session, experiment_id: str, *, lock: bool = False) -> Experiment:
    return experiments.find(session, experiment_id, lock=lock)


async def _visible(context: CurrentContext, response: Response, experiment_id: ExperimentId) -> VisibleHandle:
    return VisibleHandle(context, response, experiment_id)


async def _editable(
    context: CurrentContext, response: Response, experiment_id: ExperimentId, if_match: IfMatchHeader
) -> EditableHandle:
    return EditableHandle(context, response, experiment_id, if_match)


async def _listed(context: CurrentContext) -> ExperimentListHandle:
    return ExperimentListHandle(context)


VisibleExperiment = Annotated[VisibleHandle, Depends(_visible)]
EditableExperiment = Annotated[EditableHandle, Depends(_editable)]
ExperimentList = Annotated[ExperimentListHandle, Depends(_listed)]
