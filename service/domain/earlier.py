"""Earlier experiments: those whose best configurations a new one tries first (`searcher.warm_start`).

Owns which experiments these may be: of the same project of the same team, and ended or paused. The workers read their
journals. It must not know HTTP, Ray or MLflow.
"""

from __future__ import annotations

from sqlalchemy import Select, exists, select
from sqlalchemy.orm import Session

from search_spaces.experiment import ExperimentSpec
from search_spaces.problems import Problem, SpecError, shorten
from search_spaces.protocol import IMPORTED_STATES
from search_spaces.searchers.drawn import MAX_EARLIER, PROJECT, DrawnSearcherSpec
from service.contract.states import INACTIVE
from service.domain import experiments
from service.store.models import Experiment, Trial


def check(session: Session, spec: ExperimentSpec, team: str) -> None:
    """Raises SpecError for ids of experiments that a warm start of this team's experiment cannot use."""
    named = _named(spec)
    usable = _usable_of(session, team, spec.project, named)
    rule = (
        f"must be an experiment of project {spec.project} that has ended or is paused, with a trial that has a result"
    )
    problems = [
        Problem(f"searcher.warm_start[{index}]", rule, shorten(one))
        for index, one in enumerate(named)
        if one not in usable
    ]
    if problems:
        raise SpecError(problems)


def to_read(session: Session, experiment: Experiment, spec: ExperimentSpec) -> list[str] | None:
    """The ids of the experiments that a driver reads, in the order of their importance; None where it reads none.

    One that was resumed or deleted since it was named is left out.
    """
    if not isinstance(spec.searcher, DrawnSearcherSpec) or not spec.searcher.warm_start:
        return None
    if spec.searcher.warm_start == PROJECT:
        query = _usable(experiment.team_id, spec.project).where(Experiment.id != experiment.id)
        newest = query.order_by(Experiment.created_at.desc(), Experiment.id.desc()).limit(MAX_EARLIER)
        return list(session.scalars(newest))
    named = _named(spec)
    usable = _usable_of(session, experiment.team_id, spec.project, named)
    return [one for one in named if one in usable]


def _named(spec: ExperimentSpec) -> tuple[str, ...]:
    given = spec.searcher.warm_start if isinstance(spec.searcher, DrawnSearcherSpec) else ()
    return () if isinstance(given, str) else given


def _usable(team: str, project: str) -> Select[str]:
    result = exists().where(Trial.experiment_id == Experiment.id, Trial.state.in_(IMPORTED_STATES))
    same = (Experiment.team_id == team, Experiment.project == project)
    return select(Experiment.id).where(*same, Experiment.state.in_(INACTIVE), result)


def _usable_of(session: Session, team: str, project: str, named: tuple[str, ...]) -> set[str]:
    ids = [one for one in named if experiments.is_well_formed(one)]
    return set(session.scalars(_usable(team, project).where(Experiment.id.in_(ids)))) if ids else set()
