"""Nothing of a team reaches those who are not in it: a word in everything of one team is in no answer to another."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from service.api import pagination, routes
from service.context import AppContext
from service.contract.states import State
from service.domain import attempts, experiments
from service.store.models import Trial
from tests.support.accounts import Accounts, signed_in
from tests.support.world import World

EXPERIMENTS = "/api/v1/experiments"
CANARY = "canary"
SPEC = {
    "name": f"{CANARY}-name",
    "project": f"{CANARY}-project",
    "labels": [f"{CANARY}-label"],
    "description": f"{CANARY} description",
    "searcher": {"kind": "random", "num_samples": 3},
}


class Teams:
    """Two teams: what the second has, everybody of the first asks for."""

    def __init__(self, client: httpx.Client, accounts: Accounts) -> None:
        accounts.team("vision")
        accounts.team(CANARY, f"{CANARY} team")
        self.own = {role: accounts.person(role, vision=role) for role in ("viewer", "member", "manager")}
        self.other = accounts.person(f"{CANARY}-owner", **{CANARY: "manager"})
        self.both = accounts.person("both", vision="member", **{CANARY: "member"})
        self.client = client
        self.accounts = accounts

    def post(self, token: str, path: str, **options: Any) -> httpx.Response:
        with signed_in(self.client, token) as sender:
            return sender.post(path, **options)

    def submit(self, token: str, spec: dict[str, Any], team: str) -> str:
        answer = self.post(token, EXPERIMENTS, json=spec, params={"team": team})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


@pytest.fixture
def both_teams(client: httpx.Client, accounts: Accounts) -> Teams:
    return Teams(client, accounts)


@pytest.fixture
def hidden(both_teams: Teams, context: AppContext) -> str:
    """An experiment of the other team with the word in everything that it has."""
    one = both_teams.submit(both_teams.other, SPEC, CANARY)
    now = datetime.now(UTC)
    with context.database.write() as session:
        experiment = experiments.find(session, one)
        attempts.start(session, experiment, 1, now)
        experiment.reason = f"{CANARY} reason"
        experiment.mlflow_run_id = f"{CANARY}run"
        line = {"state": "RUNNING", "metrics": {}, "parameters": {"lr": CANARY}, "sample": {}, "updated_at": now}
        session.add(Trial(experiment_id=one, trial=0, attempt=1, stop_reason=CANARY, **line))
    hook = {"url": f"https://{CANARY}.example.com/{CANARY}", "name": CANARY, "team": CANARY}
    assert both_teams.post(both_teams.other, "/api/v1/webhooks", json=hook).status_code == 201
    return one


def test_no_answer_to_a_team_holds_a_word_of_another(
    both_teams: Teams, hidden: str, context: AppContext, client: httpx.Client
) -> None:
    shared = both_teams.submit(both_teams.own["member"], {"name": "mine"}, "vision")
    hook = {"url": "https://hooks.example.com/", "team": "vision"}
    hook_id = both_teams.post(both_teams.own["manager"], "/api/v1/webhooks", json=hook).json()["id"]
    cursor = {"cursor": pagination.encode_experiment(_row(context, hidden))}
    queries: list[dict[str, str]] = [{}, cursor]
    queries += [{"name": CANARY}, {"project": SPEC["project"]}, {"label": SPEC["labels"][0]}]
    queries += [{"team": CANARY}, {"owner": f"{CANARY}-owner"}, {"object": f"experiments/{hidden}"}]
    asked = 0
    for token in both_teams.own.values():
        with signed_in(client, token) as sender:
            for address, is_list in _addresses(shared, hook_id):
                for query in queries if is_list else [{}]:
                    answer = sender.get(address, params=query)
                    asked += 1
                    text = answer.text
                    for value in query.values():  # what was sent may be said again
                        text = text.replace(value, "")
                    assert CANARY not in text.lower(), (address, query)
                    assert hidden not in text, (address, query)
    assert asked > 100
    with signed_in(client, both_teams.other) as sender:
        assert CANARY in sender.get(EXPERIMENTS).text, "its own team sees it"
        assert hidden in sender.get("/api/v1/cluster").text
        assert CANARY in sender.get("/api/v1/webhooks").text


def test_a_page_begins_behind_any_cursor_without_what_is_hidden(
    both_teams: Teams, hidden: str, client: httpx.Client
) -> None:
    own = [both_teams.submit(both_teams.own["member"], {"name": f"n{number}"}, "vision") for number in range(3)]
    between = both_teams.submit(both_teams.other, SPEC, CANARY)
    own.append(both_teams.submit(both_teams.own["member"], {"name": "n3"}, "vision"))
    found, query = list[str](), {"limit": "2"}
    with signed_in(client, both_teams.own["viewer"]) as viewer:
        while True:
            page = viewer.get(EXPERIMENTS, params=query).json()
            found += [item["id"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
    assert found == own[::-1]
    assert between not in found


def test_the_source_of_a_continuation_is_hidden_from_who_may_not_see_it(
    both_teams: Teams, context: AppContext, client: httpx.Client
) -> None:
    source = both_teams.submit(both_teams.own["member"], SPEC, "vision")
    with context.database.write() as session:
        experiments.move(session, experiments.find(session, source), State.PAUSED, datetime.now(UTC))
    moved = both_teams.post(both_teams.both, f"{EXPERIMENTS}/{source}/continue", params={"team": CANARY}).json()
    assert (moved["team"], moved["owner"], moved["source_id"]) == (CANARY, "both", source)
    with signed_in(client, both_teams.other) as other:
        assert other.get(f"{EXPERIMENTS}/{moved['id']}").json()["source_id"] is None
        assert source not in other.get(EXPERIMENTS).text
        assert source not in other.get("/api/v1/audit").text


@pytest.mark.parametrize("change", ["resume", "delete"])
def test_a_continuation_in_another_team_prevents_no_change_of_its_source_and_fails_instead(
    both_teams: Teams, accounts: Accounts, context: AppContext, client: httpx.Client, world: World, change: str
) -> None:
    reader = accounts.person("reader", vision="viewer", **{CANARY: "member"})
    source = both_teams.submit(both_teams.own["member"], SPEC, "vision")
    with context.database.write() as session:
        experiments.move(session, experiments.find(session, source), State.PAUSED, datetime.now(UTC))
    moved = both_teams.post(reader, f"{EXPERIMENTS}/{source}/continue", params={"team": CANARY}).json()["id"]
    both_teams.post(reader, f"{EXPERIMENTS}/{moved}/pause")
    with signed_in(client, both_teams.own["manager"]) as manager:
        if change == "resume":
            assert manager.post(f"{EXPERIMENTS}/{source}/resume").status_code == 200
        else:
            assert manager.delete(f"{EXPERIMENTS}/{source}").status_code == 202
    with signed_in(client, both_teams.other) as other:
        refused = other.post(f"{EXPERIMENTS}/{moved}/resume")
        with context.database.write() as session:  # as if it had waited in the queue all the time
            experiments.move(session, experiments.find(session, moved), State.QUEUED, datetime.now(UTC))
        world.reconciler.reconcile_once()
        view = other.get(f"{EXPERIMENTS}/{moved}").json()
    what = {"resume": "is active", "delete": "was deleted before its trials were imported"}[change]
    said = f"experiment {moved} continues from an experiment of another team, which {what}"
    assert (refused.status_code, view["state"]) == (409, "ERROR")
    assert said in refused.json()["detail"]
    assert view["reason"].startswith(said)
    assert source not in refused.text + str(view)
    assert f"exp-{moved}-a1" not in world.launcher.launches


def test_a_continuation_needs_the_right_to_read_one_and_to_submit_to_the_other(
    both_teams: Teams, accounts: Accounts, context: AppContext
) -> None:
    source = both_teams.submit(both_teams.own["member"], SPEC, "vision")
    with context.database.write() as session:
        experiments.move(session, experiments.find(session, source), State.PAUSED, datetime.now(UTC))
    path = f"{EXPERIMENTS}/{source}/continue"
    assert both_teams.post(both_teams.other, path).status_code == 404
    assert both_teams.post(both_teams.own["viewer"], path).status_code == 403
    assert both_teams.post(both_teams.own["viewer"], path, params={"team": "vision"}).status_code == 403
    assert both_teams.post(both_teams.own["member"], path, params={"team": CANARY}).status_code == 404
    reader = accounts.person("reader", vision="viewer", **{CANARY: "member"})
    assert both_teams.post(reader, path).json()["team"] == CANARY, "the only one that the reader may submit to"
    assert both_teams.post(both_teams.both, path).json()["team"] == "vision", "that of the source"


def test_a_submission_goes_to_the_only_team_or_to_the_one_that_is_named(
    both_teams: Teams, accounts: Accounts, client: httpx.Client
) -> None:
    made = both_teams.post(both_teams.own["member"], EXPERIMENTS, json={"name": "x"}).json()
    assert (made["team"], made["owner"]) == ("vision", "member")
    several = both_teams.post(both_teams.both, EXPERIMENTS, json={"name": "x"})
    assert several.status_code == 422
    assert several.json()["errors"] == [
        {"field": "team", "rule": f"must be given: one of {CANARY}, vision", "value": None}
    ]
    lonely = both_teams.post(accounts.person("lonely"), EXPERIMENTS, json={"name": "x"})
    assert lonely.status_code == 403
    with signed_in(client, both_teams.both) as both:
        for team in ("vision", CANARY):
            both.post(EXPERIMENTS, json={"name": "x"}, params={"team": team}).raise_for_status()
            listed = both.get(EXPERIMENTS, params={"team": team}).json()["items"]
            assert {item["team"] for item in listed} == {team}
        assert len(both.get(EXPERIMENTS, params={"owner": "both"}).json()["items"]) == 2


def test_keys_of_submissions_are_of_one_person(both_teams: Teams) -> None:
    options: dict[str, Any] = {"json": {"name": "x"}, "headers": {"Idempotency-Key": "k"}}
    first = both_teams.post(both_teams.own["member"], EXPERIMENTS, **options).json()["id"]
    assert both_teams.post(both_teams.own["member"], EXPERIMENTS, **options).json()["id"] == first
    assert both_teams.post(both_teams.own["manager"], EXPERIMENTS, **options).json()["id"] != first
    assert both_teams.post(both_teams.other, EXPERIMENTS, **options).json()["id"] != first
    one = both_teams.post(both_teams.both, EXPERIMENTS, **options, params={"team": "vision"})
    assert one.status_code == 201
    other_team = both_teams.post(both_teams.both, EXPERIMENTS, **options, params={"team": CANARY})
    assert other_team.status_code == 422, "one key stands for one request"


def test_models_of_teams_have_different_names(both_teams: Teams) -> None:
    spec = {"name": "night", "searcher": {"kind": "random", "num_samples": 1}}
    for token in (both_teams.own["member"], both_teams.other):
        assert both_teams.post(token, EXPERIMENTS, json=spec).json()["warnings"] == []
    (warning,) = both_teams.post(both_teams.other, EXPERIMENTS, json=spec).json()["warnings"]
    assert f"registered model {CANARY}~default.night" in warning


def test_an_archived_team_can_only_be_read(
    both_teams: Teams, accounts: Accounts, client: httpx.Client, world: World
) -> None:
    admin = accounts.person("root", admin=True)
    one = both_teams.submit(both_teams.own["member"], {"name": "x"}, "vision")
    assert both_teams.post(admin, "/api/v1/teams/vision/archive").status_code == 409, "it has an active experiment"
    both_teams.post(both_teams.own["member"], f"{EXPERIMENTS}/{one}/cancel").raise_for_status()
    assert both_teams.post(admin, "/api/v1/teams/vision/archive").status_code == 200
    with signed_in(client, both_teams.own["manager"]) as manager:
        assert manager.get(f"{EXPERIMENTS}/{one}").status_code == 200
        assert manager.post(EXPERIMENTS, json={"name": "x"}).status_code == 403
        refused = manager.delete(f"{EXPERIMENTS}/{one}")
        assert refused.status_code == 403
        assert (
            refused.json()["detail"]
            == "the team 'vision' is archived: its members can read its experiments, and nothing else"
        )
    assert both_teams.post(admin, EXPERIMENTS, json={"name": "x"}, params={"team": "vision"}).status_code == 409
    assert both_teams.post(admin, "/api/v1/teams/vision/unarchive").status_code == 200
    assert both_teams.post(both_teams.own["member"], EXPERIMENTS, json={"name": "x"}).status_code == 201


def _row(context: AppContext, experiment_id: str) -> Any:
    with context.database.read() as session:
        return experiments.find(session, experiment_id)


def _addresses(own: str, hook: str) -> Iterator[tuple[str, bool]]:
    """Every address that can be read, about what the caller may see, and whether it is about more than one thing."""
    values = {
        "webhook_id": hook,
        "experiment_id": own,
        "trial": "0",
        "team": "vision",
        "login": "viewer",
        "name": "digits-quick",
        "attempt_id": f"exp-{own}-a1",
        "pool": "default",
    }
    for route in routes.all_routes():
        if route.methods == {"GET"}:
            yield route.path.format(**values), "{" not in route.path
