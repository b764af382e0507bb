"""Queue limit: how many experiments of a team may wait for a pool. It must not know how slots are shared."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from search_spaces.pool_names import DEFAULT_POOL
from search_spaces.problems import Problem, SpecError
from service.contract.states import State
from service.store.models import Experiment, StoredGrant


def check(session: Session, team: str, pool: str = DEFAULT_POOL, experiment_id: str = "") -> None:
    """Raises SpecError when as many other experiments wait as the grant of the team allows."""
    grant = session.get(StoredGrant, (pool, team))
    if grant is None or grant.max_queued is None:
        return
    waits = Experiment.state == State.QUEUED, Experiment.pool == pool, Experiment.id != experiment_id
    waiting = session.scalar(select(func.count()).where(*waits, Experiment.team_id == team)) or 0
    if waiting >= grant.max_queued:
        of_pool = "" if pool == DEFAULT_POOL else f" of the pool {pool}"
        rule = (
            f"must have fewer than {grant.max_queued} experiments in the queue{of_pool}; wait, or cancel some of them"
        )
        raise SpecError([Problem("team", rule, waiting)])
