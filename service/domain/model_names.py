"""Model names: which experiments register their winners as versions of the same model.

Owns the warning about it. It must not know MLflow.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, func, or_, select, true, tuple_
from sqlalchemy.orm import Session

from search_spaces.experiment import MAX_NAME_LENGTH, ExperimentSpec
from search_spaces.problems import Problem
from search_spaces.protocol import MODEL_NAME_CHARACTERS, registered_model_name
from service.contract.states import ENDED, State
from service.store.models import Experiment


def warnings(session: Session, spec: ExperimentSpec, team: str, source_id: str | None = None) -> list[str]:
    """A warning if another experiment of the team has or may get a version of this one's model. It names the newest.

    Continuations of one source, and the source, may share a model. A dot in a name may be that between project and
    name, so all places are compared.
    """
    full = f"{spec.project}.{spec.name}"
    dots = [index for index, character in enumerate(full) if character == "."]
    pairs = [(full[:dot], full[dot + 1 :]) for dot in dots]
    possible = [pair for pair in pairs if min(map(len, pair)) > 0 and max(map(len, pair)) <= MAX_NAME_LENGTH]
    model = registered_model_name(spec.project, spec.name, team)
    equal: ColumnElement[bool] = tuple_(Experiment.project, Experiment.name).in_(possible)
    if len(model) == MODEL_NAME_CHARACTERS:  # it may be cut, and then others have the same beginning
        joined = Experiment.project + "." + Experiment.name
        own = model[len(registered_model_name("", "", team)) - 1 :]
        equal = or_(equal, func.substr(joined, 1, len(own)) == own)
    registers = and_(
        Experiment.state != State.DELETING, or_(Experiment.state.not_in(ENDED), Experiment.winner.is_not(None))
    )
    source = source_id or ""
    other = session.execute(
        select(Experiment.id, Experiment.project, Experiment.name)
        .where(equal, registers, Experiment.team_id == team)
        .where(Experiment.id != source, func.coalesce(Experiment.source_id, "") != source if source else true())
        .order_by(Experiment.created_at.desc(), Experiment.id.desc())
        .limit(1)
    ).first()
    if other is None:
        return []
    rule = (
        f"should differ from that of experiment {other.id} (project {other.project}, name {other.name}), because the "
        f"winners of both are versions of the registered model {model}; choose another name or project to part them"
    )
    return [str(Problem("name", rule, spec.name))]
