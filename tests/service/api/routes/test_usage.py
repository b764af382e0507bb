"""GET /api/v1/usage and `rung usage`: sums of a month, of the teams that one may see."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from search_spaces.experiment import ExperimentSpec
from service.cli import app
from service.context import AppContext
from service.domain import experiments
from service.domain.accounting import Month
from service.domain.experiments import Belonging
from service.store.accounting import Usage
from service.store.accounts import User
from tests.support.accounts import Accounts, signed_in

pytestmark = pytest.mark.stores

USAGE = "/api/v1/usage"
NOVEMBER = {"month": "2026-11"}


class Bills:
    """Two teams, and what they used in November 2026: bob of vision and a program, eve of speech."""

    def __init__(self, context: AppContext, accounts: Accounts) -> None:
        self.accounts = accounts
        for team in ("vision", "speech"):
            accounts.team(team)
        self.tokens = {
            "bob": accounts.person("bob", vision="member"),
            "eve": accounts.person("eve", speech="viewer"),
            "root": accounts.person("root", admin=True),
        }
        with context.database.write() as session:
            ids = {row.login: row.id for row in session.scalars(select(User))}
            self.mine = self._used(session, "vision", ids["bob"], hour(30, 23), 2)
            self._used(session, "vision", ids["bob"], hour(1, 0), 1)
            self._used(session, "vision", None, hour(2, 5), 4)
            self._used(session, "vision", ids["bob"], datetime(2026, 10, 31, 23, tzinfo=UTC), 100)
            self._used(session, "vision", ids["bob"], datetime(2026, 12, 1, tzinfo=UTC), 100)
            self.hidden = self._used(session, "speech", ids["eve"], hour(3, 7), 8)

    @staticmethod
    def _used(session: Any, team: str, user: str | None, when: datetime, slot_hours: float) -> str:
        spec = ExperimentSpec(name=f"of-{team}")
        one = experiments.submit(session, spec, [], belonging=Belonging(team, user)).id
        seconds = {
            "slot_seconds": 3600 * slot_hours,
            "gpu_seconds": 1800 * slot_hours,
            "cpu_seconds": 7200 * slot_hours,
        }
        session.add(Usage(hour=when, experiment_id=one, team_id=team, user_id=user, pool="default", **seconds))
        return str(one)


def hour(day: int, of_day: int) -> datetime:
    return datetime(2026, 11, day, of_day, tzinfo=UTC)


@pytest.fixture
def bills(context: AppContext, accounts: Accounts) -> Bills:
    return Bills(context, accounts)


def asked(client: httpx.Client, token: str, **query: Any) -> Any:
    with signed_in(client, token) as sender:
        return sender.get(USAGE, params=NOVEMBER | query)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("team", [("vision", None, None, 7)]),
        ("person", [("vision", None, None, 4), ("vision", "bob", None, 3)]),
        ("pool", [("vision", None, "default", 7)]),
    ],
)
def test_sums_are_those_of_the_month_and_of_the_own_team(
    client: httpx.Client, bills: Bills, by: str, expected: list[Any]
) -> None:
    page = asked(client, bills.tokens["bob"], by=by).json()
    assert [(one["team"], one["person"], one["pool"], one["slot_hours"]) for one in page["items"]] == expected
    assert (page["month"], page["by"], page["next_cursor"]) == ("2026-11", by, None)
    assert all(one["gpu_hours"] * 4 == one["slot_hours"] * 2 == one["cpu_hours"] for one in page["items"])


def test_nothing_of_another_team_is_seen(client: httpx.Client, bills: Bills) -> None:
    for by in ("team", "person", "experiment", "pool"):
        for cursor in (None, "WyIiLCIiXQ"):  # of ["",""]
            query = {"by": by} if cursor is None else {"by": by, "cursor": cursor}
            text = asked(client, bills.tokens["bob"], **query).text
            assert "vision" in text
            assert not {word for word in ("speech", "eve", bills.hidden) if word in text}
    absent, other = (asked(client, bills.tokens["bob"], team=team) for team in ("nosuch", "speech"))
    assert (absent.status_code, other.status_code) == (404, 404)
    assert absent.text.replace("nosuch", "speech") == other.text
    assert [one["team"] for one in asked(client, bills.tokens["eve"]).json()["items"]] == ["speech"]
    assert asked(client, bills.accounts.person("lonely")).status_code == 403


def test_an_administrator_sees_all_teams(client: httpx.Client, bills: Bills) -> None:
    items = asked(client, bills.tokens["root"]).json()["items"]
    assert {one["team"]: one["slot_hours"] for one in items} == {"speech": 8, "vision": 7}
    only = asked(client, bills.tokens["root"], team="speech", by="experiment").json()["items"]
    assert [(one["experiment_id"], one["name"], one["person"]) for one in only] == [(bills.hidden, "of-speech", "eve")]


def test_pages_hold_each_sum_once(client: httpx.Client, bills: Bills) -> None:
    found, query = [], {"by": "experiment", "limit": 2}
    while True:
        page = asked(client, bills.tokens["root"], **query).json()
        found += [(one["team"], one["experiment_id"]) for one in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert len(found) == len(set(found)) == 4
    assert found == sorted(found)


def test_a_sum_by_experiment_outlives_the_experiment(client: httpx.Client, bills: Bills, context: AppContext) -> None:
    with context.database.write() as session:
        session.delete(experiments.find(session, bills.mine))
    items = asked(client, bills.tokens["bob"], by="experiment").json()["items"]
    assert [one["name"] for one in items if one["experiment_id"] == bills.mine] == [None]


def test_an_experiment_has_what_it_used_in_all_months(client: httpx.Client, bills: Bills, context: AppContext) -> None:
    with context.database.write() as session:
        [row] = session.scalars(select(Usage).where(Usage.experiment_id == bills.mine))
        values = {"team_id": row.team_id, "pool": row.pool, "user_id": row.user_id}
        october = datetime(2026, 10, 31, 23, tzinfo=UTC)
        seconds = {"slot_seconds": 3600.0, "gpu_seconds": 7200.0, "cpu_seconds": 10800.0}
        session.add(Usage(hour=october, experiment_id=bills.mine, **values, **seconds))
    with signed_in(client, bills.tokens["bob"]) as bob:
        path = f"/api/v1/experiments/{bills.mine}"
        unused = bob.post("/api/v1/experiments", json={"name": "unused"}).json()["used"]
        found = [bob.get(path).json()["used"]]
        found += [one["used"] for one in bob.get("/api/v1/experiments").json()["items"] if one["id"] == bills.mine]
    assert found == [{"slot_hours": 3.0, "gpu_hours": 3.0, "cpu_hours": 7.0}] * 2
    assert unused == {"slot_hours": 0.0, "gpu_hours": 0.0, "cpu_hours": 0.0}


@pytest.mark.parametrize(
    "query", [{"month": "2026-13"}, {"month": "26-1"}, {"by": "week"}, {"cursor": "e30"}, {"limit": 0}, {"x": 1}]
)
def test_wrong_queries_are_refused(client: httpx.Client, bills: Bills, query: dict[str, Any]) -> None:
    assert asked(client, bills.tokens["bob"], **query).status_code == 422


def test_a_month_ends_where_the_next_begins() -> None:
    assert Month.of(datetime(2026, 12, 31, 23, 59, tzinfo=UTC)).end == datetime(2027, 1, 1, tzinfo=UTC)
    assert str(Month.parse("2026-02")) == "2026-02"
    assert Month.parse("2026-02").end == Month.parse("2026-03").begin


def test_the_command_prints_a_table_csv_and_json(client: httpx.Client, bills: Bills, tmp_path: Path) -> None:
    token = bills.tokens["bob"]
    environment = {"RUNG_URL": str(client.base_url), "RUNG_TOKEN": token, "RUNG_HOME": str(tmp_path), "COLUMNS": "120"}
    runner, command = CliRunner(env=environment), ["usage", "--month", "2026-11"]
    lines = [line.split() for line in runner.invoke(app, [*command, "--by", "person"]).stdout.splitlines()]
    assert lines == [
        ["team", "person", "slot", "hours", "gpu", "hours", "cpu", "hours"],
        ["vision", "4.000", "2.000", "8.000"],
        ["vision", "bob", "3.000", "1.500", "6.000"],
    ]
    rows = list(csv.DictReader(io.StringIO(runner.invoke(app, [*command, "--by", "experiment", "--csv"]).stdout)))
    assert len(rows) == 3
    assert {row["month"] for row in rows} == {"2026-11"}
    assert sum(float(row["gpu_hours"]) for row in rows) == 3.5
    assert json.loads(runner.invoke(app, [*command, "--json"]).stdout)["items"][0]["slot_hours"] == 7
    assert runner.invoke(app, ["usage", "--month", "2020-01"]).stdout == "nothing was used in 2020-01\n"
    assert runner.invoke(app, ["usage", "--month", "January"]).exit_code == 2
