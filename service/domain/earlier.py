"""Earlier experiments: those whose best configurations a new one tries first (`searcher.warm_start`).

Owns which experiments these may be: of the same project of the same team, and ended or paused; and the warning that
there is nothing to learn from them. The workers read their journals. It must not know HTTP, Ray or MLflow.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, and_, exists, select
from sqlalchemy.orm import Session

from search_spaces.experiment import ExperimentSpec, SearchSpace
from search_spaces.phrases import listed
from search_spaces.problems import Problem, SpecError, shorten
from search_spaces.protocol import IMPORTED_STATES
from search_spaces.searchers.drawn import MAX_EARLIER, PROJECT, DrawnSearcherSpec
from search_spaces.searchers.initial import DEFAULT, MAX_KNOWN, initial_sample, known_sample
from search_spaces.upgrade import upgrade_sample
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


def warnings(session: Session, spec: ExperimentSpec, team: str) -> list[str]:
    """That the warm start of this team's experiment finds nothing, as far as the service knows, and why."""
    searcher = spec.searcher
    if not isinstance(searcher, DrawnSearcherSpec) or not searcher.warm_start:
        return []
    whole_project = searcher.warm_start == PROJECT
    if whole_project:
        ids = _newest(session, team, spec.project)
    else:
        ids = sorted(_usable_of(session, team, spec.project, _named(spec)))
    if not ids and not whole_project:
        return []  # `check` refuses them
    if not ids:
        rule = (
            f"finds nothing now: no experiment of project {spec.project} has ended or is paused with a trial that has "
            "a result; what has ended when this one starts is used"
        )
    elif not (best := _best(session, ids)):
        rule = f"finds nothing: no trial of {listed(ids)} has a value, because all diverged"
    elif all(_is_default(spec.search_space, parameters) for parameters in best):
        rule = (
            f"finds nothing beyond the defaults: of the best trials of {listed(ids)}, no hyperparameter that this "
            "experiment searches fits its search space with another value; only the default configuration is tried"
        )
    else:
        return []
    return [str(Problem("searcher.warm_start", rule))]


def to_read(session: Session, experiment: Experiment, spec: ExperimentSpec) -> list[str] | None:
    """The ids of the experiments that a driver reads, in the order of their importance; None where it reads none.

    One that was resumed or deleted since it was named is left out.
    """
    if not isinstance(spec.searcher, DrawnSearcherSpec) or not spec.searcher.warm_start:
        return None
    if spec.searcher.warm_start == PROJECT:
        return _newest(session, experiment.team_id, spec.project, besides=experiment.id)
    named = _named(spec)
    usable = _usable_of(session, experiment.team_id, spec.project, named)
    return [one for one in named if one in usable]


def _newest(session: Session, team: str, project: str, besides: str = "") -> list[str]:
    query = _usable(team, project).where(Experiment.id != besides)
    return list(session.scalars(query.order_by(Experiment.created_at.desc(), Experiment.id.desc()).limit(MAX_EARLIER)))


def _best(session: Session, ids: list[str]) -> list[dict[str, Any]]:
    """The hyperparameters of the best trial of each experiment, of as many as a search tries: each of them is placed in
    the search space."""
    best = and_(Trial.experiment_id == Experiment.id, Trial.trial == Experiment.best_trial)
    query = select(Trial.parameters).join(Experiment, best).where(Experiment.id.in_(ids))
    newest = query.order_by(Experiment.created_at.desc(), Experiment.id.desc()).limit(MAX_KNOWN)
    return [upgrade_sample(parameters) for parameters in session.scalars(newest)]


def _is_default(search_space: SearchSpace, parameters: dict[str, Any]) -> bool:
    """Whether what fits of a trial's hyperparameters is what the default configuration has."""
    return known_sample(search_space, parameters) == initial_sample(search_space, DEFAULT)


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
