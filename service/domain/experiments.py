"""Experiments: how a search is stored, found and moved between its states.

Owns `move`, the only writer of `Experiment.state`. What people do to experiments is in `actions`, what drivers do is in
`attempts` and `heartbeats`. It must not know HTTP, Ray or MLflow, nor who may see an experiment.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError
from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session, defer, load_only

from search_spaces.controls import Controls
from search_spaces.experiment import ExperimentSpec
from search_spaces.objective import Objective
from search_spaces.problems import Problem
from search_spaces.protocol import DEFAULT_TEAM, ENDED_TRIAL_STATES, TrialState
from search_spaces.replicates import FIRST_REPLICATE
from search_spaces.stored import StoredSpec, read_controls, read_spec
from service.contract.errors import ConflictError, NotFoundError
from service.contract.states import ACTIVE, DRIVEN, ENDED, STOP_ASKED, TRANSITIONS, State
from service.contract.webhook_events import Event
from service.domain import notifications, pool_rights, queue_limit, team_storage
from service.store.accounts import User
from service.store.models import WITHOUT_VALUES, Experiment, Label, Trial

#: Without 0 o 1 i l u, because people read ids aloud and type them.
ID_ALPHABET = "23456789abcdefghjkmnpqrstvwxyz"
ID_LENGTH = 8
#: What the queue and the view of the cluster need of an experiment. Specs are large; what else is used is read then.
WITHOUT_SPEC = load_only(
    *(Experiment.id, Experiment.name, Experiment.state, Experiment.phase, Experiment.slots),
    *(
        Experiment.created_at,
        Experiment.retry_at,
        Experiment.cpus_per_trial,
        Experiment.gpus_per_trial,
        Experiment.gpu_type,
        Experiment.placement,
        Experiment.slot_nodes,
        Experiment.controls,
        Experiment.reason,
    ),
    *(Experiment.attempt, Experiment.priority, Experiment.excluded_nodes, Experiment.waits_for, Experiment.stop_epochs),
    Experiment.leaving_nodes,
    *(Experiment.team_id, Experiment.owner_id, Experiment.owner, Experiment.pool, Experiment.pool_nodes),
    Experiment.packing,
)

#: What lists leave out, because it may be large.
WITHOUT_LARGE = tuple(
    defer(column) for column in (Experiment.spec, Experiment.warnings, Experiment.winner, Experiment.excluded_nodes)
)

#: What the team is notified of: a new state, or one that follows from a certain one.
EVENTS: dict[State | tuple[State, State], Event] = {
    State.RUNNING: Event.STARTED,  # the first time
    State.COMPLETED: Event.COMPLETED,
    State.ERROR: Event.FAILED,
    (State.PREEMPTING, State.QUEUED): Event.PREEMPTED,
}


@dataclass(frozen=True)
class Belonging:
    """The team that a new experiment belongs to, and the person who submits it, if they have an account."""

    team: str = DEFAULT_TEAM
    owner_id: str | None = None


@dataclass(frozen=True)
class Selection:
    """Which experiments a list holds. None and an empty `states` do not restrict it.

    `name` matches any part of the name, in any case. `before` is the creation time and id of a newer experiment.
    `owner` is a login.
    """

    limit: int
    teams: Collection[str] | None = None
    owner: str | None = None
    states: Sequence[State] = ()
    project: str | None = None
    name: str | None = None
    label: str | None = None
    archived: bool | None = False
    before: tuple[datetime, str] | None = None


def move(session: Session, experiment: Experiment, to: State, now: datetime, reason: str = "") -> None:
    """Change the state, and have the team notified of EVENTS. A trial that is still open when its experiment ends, ends
    with it.

    Raises ConflictError for a change that `TRANSITIONS` does not hold.
    """
    state = State(experiment.state)
    if to not in TRANSITIONS[state]:
        raise ConflictError(f"experiment {experiment.id} is {state} and cannot become {to}")
    event = EVENTS.get((state, to)) or EVENTS.get(to)
    is_news = event is not Event.STARTED or experiment.started_at is None
    experiment.state, experiment.reason = to, reason
    experiment.revision += 1
    experiment.stop_asked_at = now if to in STOP_ASKED else None
    experiment.waits_for, experiment.stop_epochs = "", False
    if to not in DRIVEN:
        experiment.slots, experiment.phase = 0, ""
    if to is State.QUEUED:
        _keep_excluded_nodes(experiment, was_preempted=state is State.PREEMPTING)
        experiment.ended_at, experiment.archived_at, experiment.mlflow_closed = None, None, False
    if to is State.RUNNING:
        experiment.started_at, experiment.retry_at = experiment.started_at or now, None
    if to in ENDED:
        experiment.ended_at = now
        _close_trials(session, experiment, now)
    if event is not None and is_news:
        notifications.publish(session, event, experiment, now)


def _keep_excluded_nodes(experiment: Experiment, *, was_preempted: bool) -> None:
    """One that only lost its slots does not use them yet: they would fail it again. Those that left are gone."""
    leaving = experiment.leaving_nodes or ()
    kept = [node for node in experiment.excluded_nodes or () if node not in leaving] if was_preempted else []
    experiment.excluded_nodes, experiment.leaving_nodes = kept or None, None


def block(session: Session, experiment: Experiment, now: datetime, reason: str) -> None:
    """Pause an experiment whose next attempt would fail in the same way until a person has removed the cause."""
    move(session, experiment, State.PAUSED, now, reason)
    notifications.publish(session, Event.FAILED, experiment, now)


def submit(
    session: Session,
    spec: ExperimentSpec,
    warnings: list[str],
    *,
    controls: Controls | None = None,
    source: Experiment | None = None,
    belonging: Belonging | None = None,
) -> Experiment:
    """Store a new experiment in the queue. `spec` is complete and valid; `controls` default to what it says.

    Raises SpecError where the team may not use the pool, the queue may hold no more of the team, or it uses
    all of its storage.
    """
    belonging = belonging or Belonging()
    pool_rights.check(session, belonging.team, spec.resources.pool, lock=True)
    queue_limit.check(session, belonging.team, spec.resources.pool)
    team_storage.check(session, belonging.team)
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
        source_id=None if source is None else source.id,
        source_team_id=None if source is None else source.team_id,
        team_id=belonging.team,
        owner_id=belonging.owner_id,
        attempt=0,
        failures=0,
        slots=0,
        created_at=_behind_those_that_wait(session, datetime.now(UTC)),
    )
    session.add(experiment)
    session.flush()
    session.add_all(Label(experiment_id=experiment.id, label=label) for label in dict.fromkeys(spec.labels))
    return experiment


def _behind_those_that_wait(session: Session, now: datetime) -> datetime:
    """`now`, or a moment later than every experiment in the queue: a clock that was set back moves nobody forward."""
    newest = session.scalar(select(func.max(Experiment.created_at)).where(Experiment.state == State.QUEUED))
    return now if newest is None else max(now, newest + timedelta(microseconds=1))


def has_reached_goal(experiment: Experiment) -> bool:
    """Whether its best value is at least as good as its goal; False where this version cannot read them."""
    goal, best = experiment.controls.get("goal"), experiment.best_value
    objective = StoredSpec(experiment.spec).overview.objective
    if not isinstance(goal, int | float) or best is None or not isinstance(objective, Objective):
        return False
    return objective.reached(best, goal)


def is_well_formed(experiment_id: str) -> bool:
    """Whether it can be the id of an experiment. Others, such as a text with a NUL, must not reach the database."""
    return len(experiment_id) == ID_LENGTH and set(experiment_id) <= set(ID_ALPHABET)


def find(
    session: Session, experiment_id: str, *, lock: bool = False, teams: Collection[str] | None = None
) -> Experiment:
    """The experiment of one of these teams (None: of any); with `lock`, its row is locked for the transaction.

    Raises NotFoundError, which says the same of an experiment of another team and of one that does not exist.
    """
    query = select(Experiment).where(Experiment.id == experiment_id)
    query = query if teams is None else query.where(Experiment.team_id.in_(teams))
    experiment = session.scalar(query.with_for_update() if lock else query) if is_well_formed(experiment_id) else None
    if experiment is None:
        shown = experiment_id[:32]
        problem = Problem("experiment_id", "must be the id of an experiment", shown)
        raise NotFoundError(f"there is no experiment {shown!r}", [problem])
    return experiment


def spec_of(experiment: Experiment) -> ExperimentSpec:
    """The stored spec. Raises ConflictError for one that this version cannot read."""
    try:
        return read_spec(experiment.spec)
    except ValidationError as error:
        raise ConflictError(f"the spec of experiment {experiment.id} cannot be read by this version: {error}") from None


def controls_of(experiment: Experiment) -> Controls:
    """The stored controls. Raises ConflictError for those that this version cannot read."""
    try:
        return read_controls(experiment.controls)
    except ValidationError as error:
        raise ConflictError(
            f"the controls of experiment {experiment.id} cannot be read by this version: {error}"
        ) from None


def list_newest(session: Session, selection: Selection) -> list[Experiment]:
    """The selected experiments, newest first, without their specs."""
    query = select(Experiment).order_by(Experiment.created_at.desc(), Experiment.id.desc()).limit(selection.limit)
    if selection.teams is not None:
        query = query.where(Experiment.team_id.in_(selection.teams))
    if selection.owner is not None:
        query = query.where(Experiment.owner_id.in_(select(User.id).where(User.login == selection.owner)))
    if selection.states:
        query = query.where(Experiment.state.in_(selection.states))
    if selection.project is not None:
        query = query.where(Experiment.project == selection.project)
    if selection.name is not None:
        query = query.where(Experiment.name.icontains(selection.name, autoescape=True))
    if selection.label is not None:
        query = query.where(Experiment.id.in_(select(Label.experiment_id).where(Label.label == selection.label)))
    if selection.archived is not None:
        is_archived = Experiment.archived_at.is_not(None)
        query = query.where(is_archived if selection.archived else ~is_archived)
    if selection.before is not None:
        query = query.where(tuple_(Experiment.created_at, Experiment.id) < tuple_(*selection.before))
    return [_with_overview(one) for one in session.scalars(query.options(*WITHOUT_LARGE))]


def _with_overview(experiment: Experiment) -> Experiment:
    """The same: its spec is read while the session is open if an earlier version has written the row."""
    _ = experiment.spec_overview is None and experiment.spec
    return experiment


def list_active(
    session: Session,
    limit: int,
    after: tuple[datetime, str] | None = None,
    teams: Collection[str] | None = None,
) -> list[Experiment]:
    """Experiments of these teams (None: of all) that run or wait to run, oldest first, without their specs where their
    size is known.

    `after` is the creation time and id of an older experiment.
    """
    query = select(Experiment).where(Experiment.state.in_(ACTIVE)).order_by(Experiment.created_at, Experiment.id)
    if teams is not None:
        query = query.where(Experiment.team_id.in_(teams))
    if after is not None:
        query = query.where(tuple_(Experiment.created_at, Experiment.id) > tuple_(*after))
    return list(session.scalars(query.options(WITHOUT_SPEC).limit(limit)))


def any_active(session: Session) -> bool:
    """Whether any experiment runs or waits to run."""
    query = select(Experiment.id).where(Experiment.state.in_(ACTIVE)).limit(1)
    return session.scalar(query) is not None


def count_trials(session: Session, ids: list[str]) -> dict[str, dict[TrialState, int]]:
    """The number of trials of the search by state, for each experiment."""
    counts: dict[str, dict[TrialState, int]] = {experiment_id: {} for experiment_id in ids}
    rows = session.execute(
        select(Trial.experiment_id, Trial.state, func.count())
        .where(Trial.experiment_id.in_(ids), Trial.trial < FIRST_REPLICATE)
        .group_by(Trial.experiment_id, Trial.state)
    )
    for experiment_id, state, count in rows:
        counts[experiment_id][TrialState(state)] = count
    return counts


def count_started(session: Session, experiment: Experiment) -> int:
    """The number of trials of the search that have started, ended ones included."""
    query = select(func.count(), func.max(Trial.trial)).where(
        Trial.experiment_id == experiment.id, Trial.trial < FIRST_REPLICATE
    )
    count, last = session.execute(query).one()
    return max(int(count), 0 if last is None else int(last) + 1)


def _close_trials(session: Session, experiment: Experiment, now: datetime) -> None:
    failed = experiment.state == State.ERROR
    query = select(Trial).where(Trial.experiment_id == experiment.id, Trial.state.not_in(ENDED_TRIAL_STATES))
    for trial in session.scalars(query.options(*WITHOUT_VALUES)):
        trial.state = TrialState.ERROR if failed else TrialState.CANCELED
        trial.stop_reason = f"the experiment ended: {experiment.reason or State(experiment.state).lower()}"
        trial.ended_at = trial.updated_at = now
