"""Who may do what: each route, asked by each kind of caller about what is theirs, another team's and nothing.

`permissions.csv` holds what is expected, for people to read: `yes` (the request is carried out, as far as the state of
the object allows), `no` (403), `sign in` (401), `absent` (404). Where the answer depends on whose object it is, a cell
holds three: the caller's own, that of another team, and one that does not exist. Each changing request leaves exactly
one row in the audit log, also a refused one.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from search_spaces.experiment import ExperimentSpec
from service.api import routes
from service.context import AppContext
from service.contract.states import State
from service.contract.webhook_events import Event
from service.domain import attempts, experiments, webhooks
from service.domain.experiments import Belonging
from service.domain.webhooks import NewWebhook
from service.identity import teams
from service.scheduling import pools
from service.store.accounts import AuditRow
from service.store.models import Trial
from tests.support.accounts import Accounts, signed_in

TABLE = Path(__file__).with_name("permissions.csv")
CALLERS = ("nobody", "viewer", "member", "manager", "admin", "attempt", "revoked", "expired")
WHOSE = ("own", "other", "absent")
OWN_TEAM, OTHER_TEAM, ABSENT_TEAM = "vision", "speech", "nosuch"
ABSENT_ID = "k3v9q2mz"
SIGN_IN, NO, ABSENT, YES = "sign in", "no", "absent", "yes"
#: Statuses of requests that are carried out.
SUCCESS = frozenset({200, 201, 202, 204})
#: Routes whose object has nothing to show here, since no driver ran and no MLflow answers; a team whose experiments
#: are active, and a password that was set just before.
UNFIT = {
    *("show_data", "show_insight", "show_driver_log", "show_trial_log", "show_curves", "show_spec", "show_readiness"),
    "archive_team",
    "change_password",
}
#: Not asked here, because no token of people or drivers takes part.
SIGNING_IN = {"log_in", "exchange_token"}


@dataclass
class Fixture:
    """Two teams with one person of each role in the first, and what requests are about."""

    context: AppContext
    accounts: Accounts
    tokens: dict[str, str | None]
    attempt_ids: dict[str, str] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def experiment(self, whose: str, state: State = State.QUEUED) -> str:
        """A new experiment, with a trial that runs."""
        if whose == "absent":
            return ABSENT_ID
        team = OWN_TEAM if whose == "own" else OTHER_TEAM
        now = datetime.now(UTC)
        with self.context.database.write() as session:
            one = experiments.submit(session, ExperimentSpec(name="x"), [], belonging=Belonging(team))
            line = {"state": "RUNNING", "metrics": {}, "parameters": {}, "sample": {}, "updated_at": now}
            session.add(Trial(experiment_id=one.id, trial=0, attempt=1, **line))
            if state is State.PAUSED:
                experiments.move(session, one, state, now)
            return one.id

    def pool(self) -> str:
        """A new pool without experiments."""
        name = f"pool-{next(self.numbers)}"
        with self.context.database.write() as session:
            pools.create(session, name, {"pool": name})
        return name

    def person(self, whose: str) -> str:
        """The login of a new person in one of the teams."""
        login = f"person-{next(self.numbers)}"
        self.accounts.person(login, **{OTHER_TEAM if whose == "other" else OWN_TEAM: "viewer"})
        return login


@dataclass(frozen=True)
class Request:
    """What is sent to a route."""

    path: dict[str, str] = field(default_factory=dict)
    query: dict[str, str | list[str]] = field(default_factory=dict)
    body: Any = None


Maker = Callable[[Fixture, str, str], Request]


def _experiment(state: State = State.QUEUED, body: Any = None, **path: str) -> Maker:
    return lambda made, _, whose: Request({"experiment_id": made.experiment(whose, state), **path}, body=body)


def _team(body: Any = None) -> Maker:
    names = {"own": OWN_TEAM, "other": OTHER_TEAM, "absent": ABSENT_TEAM}

    def make(made: Fixture, _: str, whose: str) -> Request:
        return Request({"team": names[whose], "login": made.person(whose), "pool": "default"}, body=body)

    return make


def _submission(made: Fixture, _: str, whose: str) -> Request:
    names = {"own": OWN_TEAM, "other": OTHER_TEAM, "absent": ABSENT_TEAM}
    return Request(query={"team": names[whose]}, body={"name": "x"})


def _pool(body: Any = None) -> Maker:
    return lambda made, _, whose: Request({"pool": "nosuch" if whose == "absent" else "default"}, body=body)


def _new_pool(made: Fixture, _: str, whose: str) -> Request:
    name = f"pool-{next(made.numbers)}"
    return Request(body={"pool": name, "labels": {"pool": name}})


def _token(made: Fixture, caller: str, whose: str) -> Request:
    if whose == "absent":
        return Request({"token_id": ABSENT_ID})
    login = "stranger" if whose == "other" or caller not in ("viewer", "member", "manager", "admin") else caller
    return Request({"token_id": made.accounts.row(made.accounts.token(login)).id})


def _webhook(made: Fixture, _: str, whose: str) -> Request:
    if whose == "absent":
        return Request({"webhook_id": ABSENT_ID})
    with made.context.database.write() as session:
        team = teams.find(session, OWN_TEAM if whose == "own" else OTHER_TEAM, None)
        row, _secret = webhooks.create(
            session,
            team,
            NewWebhook("https://hooks.example.com/", list(Event)),
            made.context.settings.allowed_targets,
            made.context.secrets,
            datetime.now(UTC),
        )
    return Request({"webhook_id": row.id})


def _new_webhook(made: Fixture, _: str, whose: str) -> Request:
    names = {"own": OWN_TEAM, "other": OTHER_TEAM, "absent": ABSENT_TEAM}
    return Request(body={"url": "https://hooks.example.com/", "team": names[whose]})


def _comparison(made: Fixture, _: str, whose: str) -> Request:
    return Request(query={"id": [made.experiment("own"), made.experiment(whose)]})


def _of_a_team(made: Fixture, _: str, whose: str) -> Request:
    names = {"own": OWN_TEAM, "other": OTHER_TEAM, "absent": ABSENT_TEAM}
    return Request(query={"team": names[whose]})


def _heartbeat(made: Fixture, _: str, whose: str) -> Request:
    return Request({"attempt_id": made.attempt_ids.get(whose, f"exp-{ABSENT_ID}-a1")}, body={"phase": "searching"})


def _plain(body: Any = None) -> Maker:
    return lambda made, caller, whose: Request(body=body)


#: What is sent to each route; those that are absent get nothing.
REQUESTS: dict[str, Maker] = {
    "submit_experiment": _submission,
    "compare_experiments": _comparison,
    "list_audit": _of_a_team,
    "show_usage": _of_a_team,
    "list_tokens": _of_a_team,
    "send_heartbeat": _heartbeat,
    "show_driver_mlflow_access": lambda made, caller, whose: replace(_heartbeat(made, caller, whose), body=None),
    "change_experiment": _experiment(body={"priority": 3}),
    "resume_experiment": _experiment(State.PAUSED),
    "archive_experiment": _experiment(State.PAUSED),
    "unarchive_experiment": _experiment(State.PAUSED),
    "delete_experiment": _experiment(State.PAUSED),
    "continue_experiment": _experiment(State.PAUSED, body={"searcher": {"kind": "random"}}),
    "show_team": _team(),
    "archive_team": _team(),
    "unarchive_team": _team(),
    "set_budget": _team({"gpu_hours": 10}),
    "remove_budget": _team(),
    "set_storage_limit": _team({"limit_bytes": 10**12}),
    "set_member": _team({"role": "member"}),
    "remove_member": _team(),
    "show_pool": _pool(),
    "change_pool": _pool({"min_run_s": 300}),
    "list_grants": _pool(),
    "create_pool": _new_pool,
    "delete_pool": lambda made, caller, whose: Request({"pool": "nosuch" if whose == "absent" else made.pool()}),
    "change_grant": _team({"weight": 2}),
    "remove_grant": _team(),
    "create_team": lambda made, caller, whose: Request(body={"team": f"team-{next(made.numbers)}"}),
    "create_user": lambda made, caller, whose: Request(body={"login": f"new-{next(made.numbers)}"}),
    "change_user": lambda made, caller, whose: Request(
        {"login": "nosuch" if whose == "absent" else made.person(whose)}, body={"name": "A"}
    ),
    "create_token": _plain({"name": "mine"}),
    "revoke_token": _token,
    "list_webhooks": _of_a_team,
    "create_webhook": _new_webhook,
    **dict.fromkeys(
        (
            *("show_webhook", "delete_webhook", "test_webhook", "rotate_webhook", "enable_webhook"),
            "list_deliveries",
        ),
        _webhook,
    ),
    "show_preset": lambda made, caller, whose: Request({"name": "digits-quick"}),
    "log_out": _plain(),
    "change_password": _plain({"new": "correct horse battery"}),
}


@pytest.fixture
def made(context: AppContext, accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> Fixture:
    monkeypatch.setattr(webhooks, "MAX_WEBHOOKS", 1000)
    for team in (OWN_TEAM, OTHER_TEAM):
        accounts.team(team)
    tokens: dict[str, str | None] = {"nobody": None}
    for role in ("viewer", "member", "manager"):
        tokens[role] = accounts.person(role, **{OWN_TEAM: role})
    tokens["admin"] = accounts.person("admin", admin=True)
    accounts.person("stranger", **{OTHER_TEAM: "manager"})
    tokens["revoked"] = accounts.token("manager", revoked=True)
    tokens["expired"] = accounts.token("manager", lifetime=timedelta(0))
    found = Fixture(context, accounts, tokens)
    for whose in ("own", "other"):
        one = found.experiment(whose)
        with context.database.write() as session:
            attempt, token = attempts.start(session, experiments.find(session, one), 1, datetime.now(UTC))
            found.attempt_ids[whose] = attempt.id
        if whose == "own":
            tokens["attempt"] = token
    return found


def test_every_answer_is_the_one_of_the_table(client: httpx.Client, made: Fixture) -> None:
    actual = {
        name: [_cell(client, made, route, caller) for caller in CALLERS]
        for name, route in ((f"{_method(route)} {route.path}", route) for route in _routes())
    }
    with TABLE.open() as file:
        (_, *header), *rows = csv.reader(file)
    assert tuple(header) == CALLERS
    expected = {name: cells for name, *cells in rows}
    differing = {name: cells for name, cells in actual.items() if cells != expected.get(name)}
    lines = "\n".join(",".join([name, *cells]) for name, cells in differing.items())
    assert not differing, f"the service answers otherwise than {TABLE.name} says:\n{lines}"
    assert sorted(actual) == sorted(expected)


def _routes() -> list[Any]:
    """Each route once, those for other versions of the same address left out."""
    return [route for route in routes.all_routes() if route.include_in_schema and route.name not in SIGNING_IN]


def _method(route: Any) -> str:
    (method,) = route.methods
    return str(method)


def _cell(client: httpx.Client, made: Fixture, route: Any, caller: str) -> str:
    """What a caller may do; one word if it does not matter whose object it is."""
    found = [_answer(client, made, route, caller, whose) for whose in WHOSE]
    (_, _, other), (_, _, absent) = found[1:]
    if found[1][0] == ABSENT:
        assert other == absent, f"{caller} can tell another team's object from none: {route.name}"
    words = [word for word, _, _ in found]
    return words[0] if len(set(words)) == 1 else "/".join(words)


def _answer(
    client: httpx.Client, made: Fixture, route: Any, caller: str, whose: str
) -> tuple[str, int, tuple[int, dict[str, str], str]]:
    request = REQUESTS.get(route.name, _experiment(trial="0") if "{experiment_id}" in route.path else _plain())(
        made, caller, whose
    )
    path = {"trial": "0", **request.path}
    address = route.path.format(**path)
    method, before = _method(route), _audit_rows(made)
    token = made.tokens[caller]
    if route.name == "log_out" and caller in ("viewer", "member", "manager", "admin"):
        token = made.accounts.token(caller)
    with signed_in(client, token) as sender:
        answer = sender.request(method, address, params=request.query, json=request.body)
    word = _word(route, answer)
    if method != "GET" and route.name != "send_heartbeat":
        rows = _audit_rows(made)[len(before) :]
        expected = [] if word == SIGN_IN else ["refused" if answer.status_code >= 400 else None]
        assert len(rows) == len(expected), (route.name, caller, whose, answer.text)
        assert all(row.outcome == "refused" for row in rows if answer.status_code >= 400), (route.name, caller, whose)
    asked = [value for _, value in httpx.QueryParams(request.query).multi_items()]
    asked += [request.body["team"]] if route.name == "create_webhook" else []
    hidden = re.compile("|".join(map(re.escape, sorted([*path.values(), *asked], key=len, reverse=True))) or "$^")
    changing = ("date", "x-request-id", "content-length")
    kept = {name: value for name, value in answer.headers.items() if name not in changing}
    return word, answer.status_code, (answer.status_code, kept, hidden.sub("...", answer.text))


def _word(route: Any, answer: httpx.Response) -> str:
    if answer.status_code == 401:
        return SIGN_IN
    if answer.status_code == 403:
        return NO
    if answer.status_code == 404 and answer.json()["detail"].startswith("there is no "):
        return ABSENT
    assert answer.status_code in SUCCESS or route.name in UNFIT, (route.name, answer.status_code, answer.text)
    return YES


def _audit_rows(made: Fixture) -> list[AuditRow]:
    with made.context.database.read() as session:
        return list(session.scalars(select(AuditRow).order_by(AuditRow.id)))


def test_the_table_has_each_kind_of_caller_and_answer() -> None:
    with TABLE.open() as file:
        words = {word for _, *cells in list(csv.reader(file))[1:] for cell in cells for word in cell.split("/")}
    assert words == {SIGN_IN, NO, ABSENT, YES}
