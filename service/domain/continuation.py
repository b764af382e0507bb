"""Continuation: a new experiment that begins with the trials of another one, its source.

Owns what may differ between the two, and keeps the source unchanged until the continuation has imported its trials,
where both are of one team: those who change the source may then cancel the continuation. One of another team, which
they may not even see, never prevents a change of the source; it fails instead if that comes before its import. The
workers read those trials. It must not know HTTP, Ray or MLflow.
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session, load_only

from search_spaces.controls import Controls
from search_spaces.experiment import MAX_NAME_LENGTH, ExperimentSpec
from search_spaces.problems import Problem, SpecError
from search_spaces.protocol import IMPORTED_STATES
from search_spaces.replicates import FIRST_REPLICATE
from search_spaces.searchers import Searcher
from search_spaces.searchers.base import SearcherSpec
from search_spaces.spec import members
from search_spaces.upgrade import upgrade
from search_spaces.validation import validate, warnings
from service.contract.errors import ConflictError
from service.contract.states import ENDED, INACTIVE, State
from service.domain import experiments, merge_patch, model_names
from service.domain.experiments import Belonging
from service.store.models import Experiment, Trial

#: What both must have in common.
SHARED = ("dataset", "search_space", "max_epochs", "early_stopping", "objective.metric", "objective.mode", "seed")
STAY = f"{', '.join(SHARED[:-1])} and {SHARED[-1]}"
#: Fields that say which fields their block has.
TAGS = ("kind", "name")
SUFFIX = "-continued"
#: In a message to somebody who may not see it.
ANOTHER_TEAMS = "an experiment of another team"


def requested_spec(source: Experiment, patch: dict[str, Any]) -> ExperimentSpec:
    """The source's spec with its current controls, and the patch (RFC 7396) merged in.

    `searcher.num_samples` counts new trials; what has another kind replaces the old block as a whole. Raises
    ConflictError while the source is active, SpecError for a change after which trials could not be compared.
    """
    _check_inactive(source)
    before = experiments.spec_of(source)
    upgraded = upgrade(patch)
    spec, problems = _validated(_patched(source, before, upgraded.document), before)
    wrong = {problem.field for problem in problems}
    problems += [
        Problem(
            upgraded.as_written(name),
            f"must be as in the source experiment, because trials could not be compared otherwise; {STAY} must stay, "
            "all other fields may change",
            _at(upgraded.document, name),
        )
        for name in SHARED
        if _at(spec, name) != _at(before, name) and name not in wrong
    ]
    if spec.searcher.exhaustive:
        others = [cls for cls in members(Searcher) if issubclass(cls, SearcherSpec) and not cls.exhaustive]
        kinds = " or ".join(cls.model_fields["kind"].default for cls in others)
        rule = f"must be {kinds}: a {spec.searcher.kind} cannot leave out the combinations that the source has tried"
        problems.append(Problem("searcher.kind", rule, spec.searcher.kind))
    if problems:
        raise SpecError(problems)
    return spec


def submit(
    session: Session,
    source: Experiment,
    spec: ExperimentSpec,
    patch: dict[str, Any],
    belonging: Belonging | None = None,
) -> Experiment:
    """Store the new experiment, by default in the team of its source. Its controls, and the warnings about it, count
    the trials that it imports.

    Raises SpecError for too many trials, and ConflictError when the source became active since its spec was read.
    """
    _check_inactive(source)
    imported = _count_importable(session, source.id)
    requested = Controls.of(spec).model_dump(mode="json")
    try:
        controls = validate({**requested, "num_samples": spec.num_samples + imported}, Controls)
    except SpecError as error:
        rule = f"{error.problems[0].rule}, together with the {imported} imported trials"
        raise SpecError([Problem("searcher.num_samples", rule, spec.num_samples)]) from None
    whole = spec.model_copy(update={"searcher": spec.searcher.model_copy(update={"num_samples": controls.num_samples})})
    belonging = belonging or Belonging(source.team_id)
    found = [*warnings(whole, patch), *model_names.warnings(session, spec, belonging.team, source.id)]
    return experiments.submit(session, spec, found, controls=controls, source=source, belonging=belonging)


def has_pending_import() -> ColumnElement[bool]:
    """SQL: the experiment is a continuation in its source's team whose driver has not imported the source's trials.

    Once the driver reports a single trial, the continuation's own journal holds all of them.
    """
    imported = exists().where(Trial.experiment_id == Experiment.id)
    is_open = Experiment.state.not_in({*ENDED, State.DELETING})
    return Experiment.source_id.is_not(None) & (Experiment.source_team_id == Experiment.team_id) & is_open & ~imported


def pending_import(session: Session, source_id: str) -> Experiment | None:
    """A continuation of this experiment, in its team, that has not imported its trials; None if there is none."""
    query = select(Experiment).where(Experiment.source_id == source_id, has_pending_import())
    return session.scalar(query.options(load_only(Experiment.id)).limit(1))


def source_to_import(session: Session, experiment: Experiment) -> str | None:
    """The id of the experiment whose trials a driver imports; None where there are none.

    A source that never ran has no folder.
    """
    source = experiment.source_id
    return source if source is not None and _count_importable(session, source) else None


def check_no_pending_import(session: Session, source: Experiment) -> None:
    """Raises ConflictError while a continuation of this experiment, in its team, has not imported its trials."""
    continuation = pending_import(session, source.id)
    if continuation is not None:
        raise ConflictError(
            f"experiment {continuation.id} continues from {source.id} and has not imported its trials; "
            "cancel it first, or wait until it has started"
        )


def check_source_unchanged(session: Session, experiment: Experiment) -> None:
    """Raises ConflictError for a continuation without imported trials whose source is active again, or deleted.

    Locks the source, so that it stays inactive for the transaction.
    """
    if experiment.source_id is None or experiments.count_started(session, experiment):
        return
    source = session.scalar(select(Experiment).where(Experiment.id == experiment.source_id).with_for_update())
    is_own = experiment.source_team_id == experiment.team_id
    named = str(experiment.source_id) if is_own else ANOTHER_TEAMS
    if source is None or source.state == State.DELETING:
        raise ConflictError(
            f"experiment {experiment.id} continues from {named}, which was deleted before its trials "
            "were imported; submit the spec as a new experiment"
        )
    if source.state not in INACTIVE:
        state = source.state if is_own else "active"
        raise ConflictError(
            f"experiment {experiment.id} continues from {named}, which is {state}, and has not imported "
            "its trials; pause or cancel the source first"
        )


def _count_importable(session: Session, experiment_id: str) -> int:
    """The number of trials that a continuation imports: replicates are not imported."""
    query = select(func.count()).where(
        Trial.experiment_id == experiment_id, Trial.state.in_(IMPORTED_STATES), Trial.trial < FIRST_REPLICATE
    )
    return session.scalars(query).one()


def _check_inactive(source: Experiment) -> None:
    if source.state not in INACTIVE:
        raise ConflictError(
            f"experiment {source.id} is {source.state}; only an experiment that has ended or is paused can be "
            "continued from: cancel or pause it first"
        )


def _validated(document: dict[str, Any], before: ExperimentSpec) -> tuple[ExperimentSpec, list[Problem]]:
    """The spec that a document says, whose invalid fields stay as before, and what is wrong with those fields.

    Raises SpecError where the others cannot be read without them.
    """
    try:
        return validate(document), []
    except SpecError as error:
        wrong = {re.split(r"[.\[]", problem.field)[0] for problem in error.problems}
        valid = {name: value for name, value in document.items() if name not in wrong}
        kept = {name: value for name, value in before.model_dump(mode="json").items() if name in wrong}
        try:
            return validate({**valid, **kept}), list(error.problems)
        except SpecError:
            raise error from None


def _patched(source: Experiment, spec: ExperimentSpec, patch: dict[str, Any]) -> dict[str, Any]:
    controls = experiments.controls_of(source)
    target = spec.model_dump(mode="json")
    target["name"] = spec.name[: MAX_NAME_LENGTH - len(SUFFIX)] + SUFFIX
    controls.write_into(target)
    _drop_replaced(target, patch)
    merged: dict[str, Any] = merge_patch.merge(target, patch)
    return merged


def _drop_replaced(target: dict[str, Any], patch: Any) -> None:
    """Remove what a patch replaces by something of another kind: the fields of the old kind say nothing about it."""
    for name, change in patch.items() if isinstance(patch, dict) else ():
        block = target.get(name)
        if not isinstance(change, dict) or not isinstance(block, dict):
            continue
        if any(tag in change and change[tag] != block.get(tag) for tag in TAGS):
            del target[name]
        else:
            _drop_replaced(block, change)
    if isinstance(patch, dict) and "metric" in patch and patch["metric"] != target.get("metric"):
        target.pop("mode", None)  # the metric decides it


def _at(node: Any, path: str) -> Any:
    """The value at a dotted path of a spec or of plain data; None where there is none."""
    for name in path.split("."):
        node = node.get(name) if isinstance(node, dict) else getattr(node, name, None)
    return node
