"""Similar trials: what earlier trials took that are like those of a spec, of the teams that somebody may see.

Owns which are similar: of the same data set, in the same pool with the same CPUs and GPUs, of networks and batch sizes
that the search space has; where there are none, of the same kinds of networks. It must not know how hours follow.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from search_spaces.domains import Choice, Interval
from search_spaces.experiment import DATASETS, ExperimentSpec, SearchSpace
from search_spaces.forecast import Measured
from search_spaces.protocol import parameter_characters
from search_spaces.sampling import NOT_APPLICABLE, flatten, leaves, without_indices
from search_spaces.spec import Spec
from service.domain.trials import YIELD_PER
from service.store.accounting import Usage
from service.store.models import Experiment, Trial

#: Experiments with trials of the same size that are looked at, those among them whose trials are, and these trials, the
#: newest first.
MAX_CANDIDATES, MAX_EXPERIMENTS, MAX_TRIALS = 2_000, 100, 2_000
#: Characters of all their hyperparameters: those of 2,000 usual trials are fewer.
MAX_CHARACTERS = 2**23
#: The hyperparameters on which the time of an epoch depends most.
COSTLY = ("model", "batch_size")


@dataclass(frozen=True)
class Similar:
    """What similar trials took. `same_sizes`: their networks and batch sizes are ones of the search space."""

    measured: Measured
    trials: int
    experiments: int
    same_sizes: bool


@dataclass(frozen=True)
class _Line:
    experiment_id: str
    epochs: int
    epoch_s: float
    parameters: Mapping[str, Any]


def find(session: Session, spec: ExperimentSpec, teams: Collection[str] | None) -> Similar | None:
    """Of these teams (None: of all). `spec` is complete: its GPUs are decided."""
    lines = _lines(session, _experiments(session, spec, teams))
    allowed = _costly_values(spec.search_space)
    same_kind = [one for one in lines if _fits(one, {name: allowed[name] for name in allowed if name == "model.kind"})]
    same = [one for one in same_kind if _fits(one, allowed) and _is_known(one, allowed)]
    chosen = same or same_kind
    if not chosen:
        return None
    experiments = {one.experiment_id for one in chosen}
    overhead_s = _overhead_s(session, [one for one in lines if one.experiment_id in experiments])
    measured = Measured([one.epoch_s for one in chosen], overhead_s)
    return Similar(measured, len(chosen), len(experiments), same_sizes=bool(same))


def _experiments(session: Session, spec: ExperimentSpec, teams: Collection[str] | None) -> list[str]:
    """Those with the same data set, pool and resources of a trial, and a kind of network that the search space has."""
    size = spec.resources
    query = (
        select(Experiment.id, Experiment.spec_overview)
        .where(Experiment.cpus_per_trial == size.cpus_per_trial, Experiment.started_at.is_not(None))
        .where(Experiment.gpus_per_trial == (size.gpus or 0), Experiment.pool == size.pool)
        .order_by(Experiment.created_at.desc())
        .limit(MAX_CANDIDATES)
    )
    query = query if teams is None else query.where(Experiment.team_id.in_(teams))
    kinds = {kind for kind in _costly_values(spec.search_space).get("model.kind", ()) if isinstance(kind, str)}
    found = list[str]()
    with session.execute(query.execution_options(yield_per=YIELD_PER)) as rows:
        for row in rows:
            if len(found) == MAX_EXPERIMENTS:
                break
            if row.spec_overview is not None and _is_like(row.spec_overview, spec, kinds):
                found.append(row.id)
    return found


def _is_like(overview: Mapping[str, Any], spec: ExperimentSpec, kinds: Set[str]) -> bool:
    own = overview.get("models")  # an earlier version did not note them
    if own and kinds.isdisjoint(own):
        return False
    try:
        return DATASETS.validate_python(overview.get("dataset", "digits")) == spec.dataset
    except ValidationError:  # of another version
        return False


def _lines(session: Session, ids: Sequence[str]) -> list[_Line]:
    query = (
        select(Trial.experiment_id, Trial.epoch, Trial.metrics, Trial.parameters)
        .where(Trial.experiment_id.in_(ids), Trial.epoch > 0)
        .order_by(Trial.updated_at.desc())
        .limit(MAX_TRIALS)
    )
    found: list[_Line] = []
    left = MAX_CHARACTERS
    with session.execute(query.execution_options(yield_per=YIELD_PER)) as rows:
        for row in rows:
            left -= parameter_characters(row.parameters)
            seconds = row.metrics.get("epoch_seconds")
            if left < 0:
                break
            if isinstance(seconds, int | float) and seconds > 0:
                found.append(_Line(row.experiment_id, row.epoch, seconds, row.parameters))
    return found


def _overhead_s(session: Session, lines: Sequence[_Line]) -> float:
    """Seconds of slots for each trial besides its epochs, in the experiments whose use was measured, without those that
    imported trials of others. Of an experiment of which not all trials were read, the others took as long."""
    ids = {one.experiment_id for one in lines}
    measured = (
        select(Usage.experiment_id, func.sum(Usage.slot_seconds))
        .join(Experiment, Experiment.id == Usage.experiment_id)
        .where(Usage.experiment_id.in_(ids), Experiment.source_id.is_(None))
        .group_by(Usage.experiment_id)
    )
    used: dict[str, float] = dict(session.execute(measured).all())
    counts = (
        select(Trial.experiment_id, func.count(), func.sum(case((Trial.epoch > 0, 1), else_=0)))
        .where(Trial.experiment_id.in_(used))
        .group_by(Trial.experiment_id)
    )
    besides_s, trials = 0.0, 0
    for experiment_id, count, with_epochs in session.execute(counts).all():
        read = [one.epochs * one.epoch_s for one in lines if one.experiment_id == experiment_id]
        besides_s += used[experiment_id] - sum(read) * with_epochs / len(read)
        trials += count
    return max(0.0, besides_s) / trials if trials else 0.0


def _costly_values(space: SearchSpace) -> dict[str, list[Any]]:
    """The values and intervals that the search space has for each costly hyperparameter, as trials name them."""
    found: dict[str, list[Any]] = {}
    for path, value in leaves(space):
        name = without_indices(path)
        if name.partition(".")[0] in COSTLY:
            values = value.choice if isinstance(value, Choice) else [value]
            found.setdefault(name, []).extend(one for one in values if not isinstance(one, Spec | dict | Choice))
    return found


def _fits(line: _Line, allowed: Mapping[str, Sequence[Any]]) -> bool:
    """Whether each of these hyperparameters of a trial, if it has it, has a value that the search space has."""
    values = ((name, line.parameters.get(name, NOT_APPLICABLE)) for name in allowed)
    return all(value == NOT_APPLICABLE or any(_is_of(value, one) for one in allowed[name]) for name, value in values)


def _is_known(line: _Line, allowed: Mapping[str, Sequence[Any]]) -> bool:
    """Whether the search space has all costly hyperparameters of a trial."""
    own = (name for name, value in line.parameters.items() if value != NOT_APPLICABLE)
    return all(name in allowed for name in own if name.partition(".")[0] in COSTLY)


def _is_of(value: Any, one: Any) -> bool:
    if isinstance(one, Interval):
        return isinstance(value, int | float) and one.low <= value <= one.high
    return bool(flatten(one, "it").get("it") == value)
