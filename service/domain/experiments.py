"""Experiments: how a search is stored, found and moved between its states.

Owns `move`: nobody else writes `Experiment.state`. What people do to experiments is in `changes`, what drivers
do in `attempts`. It must not know HTTP, Ray or MLflow.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime

from pydantic import ValidationError
from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from search_spaces.controls import Controls
from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import ENDED_TRIAL_STATES, TrialState
from search_spaces.stored import read_spec
from service.contract.errors import ConflictError, NotFoundError
from service.contract.states import ACTIVE, DRIVEN, ENDED, TRANSITIONS, State
from service.store.models import Experiment, Label, Trial

ID_ALPHABET = "23456789abcdefghjkmnpqrstvwxyz"  # no 0 o 1 i l u: ids are read aloud and typed
ID_LENGTH = 8


def move(experiment: Experiment, to: State, now: datetime, reason: str = "") -> None:
    """The only way to another state. Raises ConflictError for a move that `TRANSITIONS` does not hold."""
    state = State(experiment.state)
    if to not in TRANSITIONS[state]:
        raise ConflictError(f"experiment {experiment.id} is {state} and cannot become {to}")
    experiment.state, experiment.reason = to, reason
    experiment.revision += 1
    experiment.stop_asked_at = now if to in {State.STOPPING, State.PAUSING} else None
    if to not in DRIVEN:
        experiment.slots, experiment.phase = 0, ""
    if to is State.QUEUED:
        experiment.ended_at, experiment.archived_at, experiment.mlflow_closed = None, None, False
    if to is State.RUNNING:
        experiment.started_at, experiment.retry_at = experiment.started_at or now, None
    if to in ENDED:
        experiment.ended_at = now


def submit(
    session: Session,
    spec: ExperimentSpec,
    warnings: list[str],
    *,
    controls: Controls | None = None,
    source_id: str | None = None,
) -> Experiment:
    """Store a new experiment in the queue. `spec` is complete and was validated; `controls` begin as it says."""
    experiment = Experiment(
        id="".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LENGTH)),
        name=spec.name,
        project=spec.project,
        state=State.QUEUED,
        phase="",
        reason="",
        spec=spec.model_dump(mode="json"),
        spec_version=spec.version,
        warnings=warnings,
        controls=(controls or Controls.of(spec)).model_dump(mode="json"),
        source_id=source_id,
        attempt=0,
        failures=0,
        slots=0,
        created_at=datetime.now(UTC),
    )
    session.add(experiment)
    session.flush()
    session.add_all(Label(experiment_id=experiment.id, label=label) for label in dict.fromkeys(spec.labels))
    return experiment


def find(session: Session, experiment_id: str, *, lock: bool = False) -> Experiment:
    """The experiment, its row locked for the transaction where asked. Raises NotFoundError."""
    known = len(experiment_id) == ID_LENGTH and set(experiment_id) <= set(ID_ALPHABET)
    query = select(Experiment).where(Experiment.id == experiment_id)
    experiment = session.scalar(query.with_for_update() if lock else query) if known else None
    if experiment is None:
        raise NotFoundError(f"there is no experiment {experiment_id[:32]!r}")
    return experiment


def spec_of(experiment: Experiment) -> ExperimentSpec:
    """Its spec as this version reads it. Raises ConflictError for one that it cannot."""
    try:
        return read_spec(experiment.spec)
    except ValidationError as error:
        raise ConflictError(f"the spec of experiment {experiment.id} cannot be read by this version: {error}") from None


def controls_of(experiment: Experiment) -> Controls:
    """Its controls as this version reads them. Raises ConflictError for those that it cannot."""
    try:
        return Controls.model_validate(experiment.controls)
    except ValidationError as error:
        raise ConflictError(
            f"the controls of experiment {experiment.id} cannot be read by this version: {error}"
        ) from None


def list_newest(
    session: Session,
    *,
    states: Iterable[State] = (),
    project: str | None = None,
    name: str | None = None,
    label: str | None = None,
    archived: bool | None = False,
    before: tuple[datetime, str] | None = None,
    limit: int,
) -> list[Experiment]:
    """Experiments from the newest on, those older than `before` where given.

    `name` matches any part of the name; `archived` is None for those that are and those that are not.
    """
    query = select(Experiment).order_by(Experiment.created_at.desc(), Experiment.id.desc()).limit(limit)
    if states := list(states):
        query = query.where(Experiment.state.in_(states))
    if project is not None:
        query = query.where(Experiment.project == project)
    if name is not None:
        query = query.where(Experiment.name.icontains(name, autoescape=True))
    if label is not None:
        query = query.where(Experiment.id.in_(select(Label.experiment_id).where(Label.label == label)))
    if archived is not None:
        query = query.where(Experiment.archived_at.is_not(None) if archived else Experiment.archived_at.is_(None))
    if before is not None:
        query = query.where(tuple_(Experiment.created_at, Experiment.id) < tuple_(*before))
    return list(session.scalars(query))


def any_active(session: Session) -> bool:
    """Whether any experiment runs, or waits to run."""
    query = select(Experiment.id).where(Experiment.state.in_(ACTIVE)).limit(1)
    return session.scalar(query) is not None


def count_trials(session: Session, ids: list[str]) -> dict[str, dict[TrialState, int]]:
    """Trials by state, for each experiment."""
    counts: dict[str, dict[TrialState, int]] = {experiment_id: {} for experiment_id in ids}
    rows = session.execute(
        select(Trial.experiment_id, Trial.state, func.count())
        .where(Trial.experiment_id.in_(ids))
        .group_by(Trial.experiment_id, Trial.state)
    )
    for experiment_id, state, count in rows:
        counts[experiment_id][TrialState(state)] = count
    return counts


def count_started(session: Session, experiment: Experiment) -> int:
    """How many trials there are, ended or not: fewer can no longer be asked for."""
    query = select(func.count(), func.max(Trial.trial)).where(Trial.experiment_id == experiment.id)
    count, last = session.execute(query).one()
    return max(int(count), 0 if last is None else int(last) + 1)


def close_trials(session: Session, experiment: Experiment, now: datetime) -> None:
    """No trial outlives its experiment: what is still open ends with it, and says so."""
    lost = experiment.state == State.ERROR
    query = select(Trial).where(Trial.experiment_id == experiment.id, Trial.state.not_in(ENDED_TRIAL_STATES))
    for trial in session.scalars(query):
        trial.state = TrialState.ERROR if lost else TrialState.CANCELED
        trial.stop_reason = f"the experiment ended: {experiment.reason or State(experiment.state).lower()}"
        trial.ended_at = trial.updated_at = now
