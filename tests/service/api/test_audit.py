"""The audit log: who asked for which change, what was before and after, and that nobody changes it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import DatabaseError

from service.context import AppContext
from service.store.accounts import AuditRow
from service.store.models import Experiment
from tests.support.accounts import Accounts, signed_in

pytestmark = pytest.mark.stores
EXPERIMENTS = "/api/v1/experiments"


@pytest.fixture
def tokens(accounts: Accounts) -> dict[str, str]:
    accounts.team("vision")
    people = {role: accounts.person(role, vision=role) for role in ("viewer", "member", "manager")}
    return {**people, "admin": accounts.person("root", admin=True)}


def entries(client: httpx.Client, token: str, **query: Any) -> list[dict[str, Any]]:
    with signed_in(client, token) as reader:
        answer = reader.get("/api/v1/audit", params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


def test_a_change_is_recorded_with_what_was_before_and_after(client: httpx.Client, tokens: dict[str, str]) -> None:
    with signed_in(client, tokens["member"]) as member:
        one = member.post(EXPERIMENTS, json={"name": "night"}, headers={"X-Request-Id": "r1"}).json()["id"]
        member.patch(f"{EXPERIMENTS}/{one}", json={"priority": 7}).raise_for_status()
        member.post(f"{EXPERIMENTS}/{one}/cancel").raise_for_status()
        member.post(f"{EXPERIMENTS}/{one}/cancel").raise_for_status()
    again, canceled, changed, made = entries(client, tokens["manager"], object=f"experiments/{one}")
    assert (made["action"], made["kind"], made["principal"], made["team"]) == (
        *("submit_experiment", "person", "member"),
        "vision",
    )
    assert (made["request_id"], made["address"], made["outcome"]) == ("r1", "127.0.0.1", "done")
    assert made["token_id"]
    assert made["change"]["after"]["name"] == "night"
    assert changed["change"]["before"]["controls"]["priority"] == 0
    assert changed["change"]["after"]["controls"]["priority"] == 7
    assert (canceled["change"]["before"]["state"], canceled["change"]["after"]["state"]) == ("QUEUED", "CANCELED")
    assert again["change"] == {"before": {}, "after": {}}, "a repeated request changes nothing"
    assert [row["outcome"] for row in (again, canceled, changed)] == ["unchanged", "done", "done"]


def test_what_is_refused_is_recorded(client: httpx.Client, tokens: dict[str, str]) -> None:
    with signed_in(client, tokens["member"]) as member:
        one = member.post(EXPERIMENTS, json={"name": "night"}).json()["id"]
        member.post(EXPERIMENTS, json={"name": 7})
        member.post(EXPERIMENTS, json={"name": 7}, params={"validate_only": True})
        member.post(EXPERIMENTS, json={"name": "x"}, params={"validate_only": True})
        member.post(f"{EXPERIMENTS}/{one}/unarchive", headers={"If-Match": '"99"'})
    with signed_in(client, tokens["viewer"]) as viewer:
        viewer.delete(f"{EXPERIMENTS}/{one}")
        viewer.delete(f"{EXPERIMENTS}/k3v9q2mz")
    client.delete(f"{EXPERIMENTS}/{one}")  # without a token: only the log of requests has it
    found = [(row["principal"], row["action"], row["outcome"]) for row in entries(client, tokens["admin"])]
    assert found == [
        ("viewer", "delete_experiment", "refused"),
        ("viewer", "delete_experiment", "refused"),
        ("member", "unarchive_experiment", "refused"),
        ("member", "submit_experiment", "refused"),
        ("member", "submit_experiment", "done"),
    ]
    assert len(entries(client, tokens["manager"])) == 4, "not the one about an experiment that does not exist"


def test_a_repeated_submission_is_recorded_as_one_that_changed_nothing(
    client: httpx.Client, tokens: dict[str, str]
) -> None:
    with signed_in(client, tokens["member"]) as member:
        for _ in range(2):
            one = member.post(EXPERIMENTS, json={"name": "x"}, headers={"Idempotency-Key": "k"}).json()["id"]
    found = entries(client, tokens["manager"], object=f"experiments/{one}")
    assert [row["outcome"] for row in found] == ["unchanged", "done"]


def test_an_entry_survives_its_object(client: httpx.Client, tokens: dict[str, str], context: AppContext) -> None:
    with signed_in(client, tokens["member"]) as member:
        one = member.post(EXPERIMENTS, json={"name": "night"}).json()["id"]
        member.post(f"{EXPERIMENTS}/{one}/cancel")
        member.delete(f"{EXPERIMENTS}/{one}").raise_for_status()
    with context.database.write() as session:
        session.execute(delete(Experiment).where(Experiment.id == one))
    assert [row["action"] for row in entries(client, tokens["manager"], object=f"experiments/{one}")] == [
        "delete_experiment",
        "cancel_experiment",
        "submit_experiment",
    ]


@pytest.mark.parametrize("statement", [update(AuditRow).values(principal="eve"), delete(AuditRow)])
def test_nobody_changes_an_entry(
    client: httpx.Client, tokens: dict[str, str], context: AppContext, statement: Any
) -> None:
    with signed_in(client, tokens["member"]) as member:
        member.post(EXPERIMENTS, json={"name": "night"}).raise_for_status()
    with pytest.raises(DatabaseError, match="append-only"), context.database.write() as session:
        session.execute(statement)
    with context.database.read() as session:
        assert session.scalar(select(func.count()).select_from(AuditRow)) == 1


def test_a_manager_reads_about_the_own_team_only(
    client: httpx.Client, accounts: Accounts, tokens: dict[str, str]
) -> None:
    accounts.team("speech")
    other = accounts.person("grace", speech="manager")
    with signed_in(client, other) as grace:
        grace.post(EXPERIMENTS, json={"name": "secret"}).raise_for_status()
    assert entries(client, tokens["manager"]) == []
    assert len(entries(client, tokens["admin"], team="speech")) == 1
    assert len(entries(client, other)) == 1


def test_the_pages_of_the_log(client: httpx.Client, tokens: dict[str, str]) -> None:
    with signed_in(client, tokens["member"]) as member:
        for number in range(5):
            member.post(EXPERIMENTS, json={"name": f"n{number}"}).raise_for_status()
    found, query = list[str](), dict[str, Any](limit=2)
    with signed_in(client, tokens["manager"]) as manager:
        while True:
            page = manager.get("/api/v1/audit", params=query).json()
            found += [row["change"]["after"]["name"] for row in page["items"]]
            if page["next_after"] is None:
                break
            query["after"] = page["next_after"]
    assert found == [f"n{number}" for number in range(4, -1, -1)]


def test_changes_of_people_and_teams_are_recorded(client: httpx.Client, tokens: dict[str, str]) -> None:
    with signed_in(client, tokens["admin"]) as root:
        root.post("/api/v1/teams", json={"team": "speech"}).raise_for_status()
        root.post("/api/v1/users", json={"login": "ada"}).raise_for_status()
        root.put("/api/v1/teams/speech/members/ada", json={"role": "member"}).raise_for_status()
        root.put("/api/v1/teams/speech/members/ada", json={"role": "viewer"}).raise_for_status()
        root.patch("/api/v1/users/ada", json={"disabled": True}).raise_for_status()
        made = root.post("/api/v1/tokens", json={"kind": "service", "team": "speech", "role": "viewer"}).json()
        root.delete(f"/api/v1/tokens/{made['id']}").raise_for_status()
    rows = entries(client, tokens["admin"])
    assert made["token"] not in str(rows)
    assert [(row["action"], row["object"], row["change"]) for row in rows][::-1] == [
        ("create_team", "teams/speech", {"after": {"name": ""}}),
        ("create_user", "users/ada", {"after": {"name": "", "email": "", "admin": False}}),
        ("set_member", "teams/speech", {"login": "ada", "before": {"role": None}, "after": {"role": "member"}}),
        ("set_member", "teams/speech", {"login": "ada", "before": {"role": "member"}, "after": {"role": "viewer"}}),
        ("change_user", "users/ada", {"before": {"disabled": False}, "after": {"disabled": True}}),
        ("create_token", f"tokens/{made['id']}", rows[1]["change"]),
        ("revoke_token", f"tokens/{made['id']}", {"after": {"revoked": True}}),
    ]


REPEATED = [
    ("POST", f"{EXPERIMENTS}/ID/pause", None),
    ("PATCH", f"{EXPERIMENTS}/ID", {"priority": 7}),
    ("POST", f"{EXPERIMENTS}/ID/archive", None),
    ("POST", f"{EXPERIMENTS}/ID/unarchive", None),
    ("POST", f"{EXPERIMENTS}/ID/resume", None),
    ("POST", f"{EXPERIMENTS}/ID/cancel", None),
    ("DELETE", f"{EXPERIMENTS}/ID", None),
    ("PUT", "/api/v1/teams/vision/members/member", {"role": "viewer"}),
    ("PATCH", "/api/v1/users/member", {"name": "M", "admin": False}),
    ("POST", "/api/v1/teams/vision/archive", None),
    ("POST", "/api/v1/teams/vision/unarchive", None),
]


def test_a_request_after_which_everything_is_as_before_is_recorded_as_unchanged(
    client: httpx.Client, tokens: dict[str, str]
) -> None:
    with signed_in(client, tokens["admin"]) as root:
        one = root.post(EXPERIMENTS, json={"name": "x"}, params={"team": "vision"}).json()["id"]
        for method, path, body in REPEATED:
            for _ in range(2):
                root.request(method, path.replace("ID", one), json=body).raise_for_status()
    rows = entries(client, tokens["admin"], limit=100)[::-1]
    assert [row["outcome"] for row in rows] == ["done", *["done", "unchanged"] * len(REPEATED)]
