"""Notifications: which events there are, and what is sent of each."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from service.context import AppContext
from service.contract.budgets import BudgetState
from service.contract.states import State
from service.contract.webhook_events import Event
from service.domain import attempts, experiments, notifications
from service.store.webhooks import Webhook
from tests.support.hooks import API, Hooks, types
from tests.support.world import World

SEARCHING = {"phase": "searching"}


@pytest.mark.stores
def test_a_search_from_its_start_to_its_end(hooks: Hooks, world: World) -> None:
    hook = hooks.create()
    one = world.started(name="night 7", objective={"goal": 0.9})
    [started] = hooks.deliver()
    document = json.loads(started.body)
    assert document == {
        "type": "experiment.started",
        "timestamp": document["timestamp"],
        "data": {
            "experiment_id": one,
            "name": "night 7",
            "state": "RUNNING",
            "team": "default",
            "link": f"http://127.0.0.1:8080/api/v1/experiments/{one}",
        },
    }
    assert abs(datetime.fromisoformat(document["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert started.headers["content-type"] == "application/json"
    world.beat(one, SEARCHING | {"trials": [world.line(0, best_value=0.8)]})
    assert hooks.deliver() == []
    for epoch in (2, 3):
        world.beat(one, SEARCHING | {"trials": [world.line(0, epoch=epoch, best_value=0.9 + epoch / 100)]})
    assert types(hooks.deliver()) == ["experiment.goal_reached"], "once"
    world.beat(one, {"phase": "completed", "winner": world.winner(one)})
    [completed] = hooks.deliver()
    assert types([completed]) == ["experiment.completed"]
    assert [view.event for view in hooks.deliveries(hook.id)] == [
        *("experiment.completed", "experiment.goal_reached", "experiment.started"),
    ]
    assert {(view.state, view.tries, view.outcome) for view in hooks.deliveries(hook.id)} == {
        ("delivered", 1, "answered 200")
    }


def test_a_signature_is_verified_by_the_package_of_the_specification(hooks: Hooks) -> None:
    hook = hooks.create()
    hooks.publish(Event.COMPLETED)
    [one] = hooks.deliver()
    assert Verifier(hook.secret).verify(one.body, one.headers)["type"] == "experiment.completed"
    with pytest.raises(WebhookVerificationError):
        Verifier(hook.secret).verify(one.body.replace("night", "other"), one.headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(hook.secret).verify(one.body, {**one.headers, "webhook-id": "msg_other"})


def test_the_former_secret_signs_for_a_day(hooks: Hooks) -> None:
    first = hooks.create()
    second = hooks.world.client.post(f"{API}/{first.id}/rotate").json()["secret"]
    hooks.publish(Event.STARTED)
    [one] = hooks.deliver()
    for secret in (first.secret, second):
        Verifier(secret).verify(one.body, one.headers)
    with hooks.context.database.write() as session:
        session.get_one(Webhook, first.id).former_until = hooks.clock.now
    hooks.publish(Event.STARTED)
    [one] = hooks.deliver()
    Verifier(second).verify(one.body, one.headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(first.secret).verify(one.body, one.headers)


def test_failures_of_all_kinds(hooks: Hooks, world: World) -> None:
    hooks.create(events=["experiment.failed"])
    failed, blocked, paused = (world.started() for _ in range(3))
    world.beat(failed, {"phase": "failed", "reason": "no such data"})
    world.beat(blocked, {"phase": "paused", "blocked": True, "reason": "the disk is full"})
    world.post(paused, "pause")
    world.beat(paused, {"phase": "paused"})
    assert world.show(paused)["state"] == "PAUSED"
    data = [json.loads(one.body)["data"] for one in hooks.deliver()]
    assert [(one["experiment_id"], one["state"]) for one in data] == [(failed, "ERROR"), (blocked, "PAUSED")]
    assert all(one.keys() == {"experiment_id", "name", "state", "team", "link"} for one in data), (
        "no reason: it is more"
    )


def test_an_experiment_that_yields_its_slots(hooks: Hooks, world: World, context: AppContext) -> None:
    hooks.create(events=["experiment.preempted", "experiment.started"])
    one = world.started()
    with context.database.write() as session:
        experiments.move(session, experiments.find(session, one), State.PREEMPTING, datetime.now(UTC))
    world.beat(one, {"phase": "paused"})
    assert world.show(one)["state"] == "QUEUED"
    world.reconciler.reconcile_once()
    assert world.show(one)["attempt"] == 2
    assert types(hooks.deliver()) == ["experiment.started", "experiment.preempted"], "it started once"


def test_a_goal_that_is_lowered_below_the_best_value_is_reached(hooks: Hooks, world: World) -> None:
    hooks.create(events=["experiment.goal_reached"])
    one = world.started(objective={"metric": "validation_loss", "goal": 0.1})
    world.beat(one, SEARCHING | {"trials": [world.line(0, best_value=0.5)]})
    assert hooks.deliver() == []
    for goal in (0.2, 0.6, 0.7):
        assert world.patch(one, goal=goal).status_code == 200
    assert types(hooks.deliver()) == ["experiment.goal_reached"]


def test_a_budget_has_an_event(hooks: Hooks, context: AppContext) -> None:
    hooks.create("/standard")
    hooks.create("/slack", format="slack")
    with context.database.write() as session:
        notifications.publish_budget(session, "default", BudgetState.SPENT, datetime.now(UTC))
    found = {one.path: json.loads(one.body) for one in hooks.deliver()}
    assert found["/standard"]["type"] == "team.budget"
    assert found["/standard"]["data"] == {"state": "spent", "team": "default"}
    assert found["/slack"] == {"text": "Team default has spent its budget of this month."}


@pytest.mark.stores
def test_there_is_no_notification_of_what_did_not_happen(hooks: Hooks, world: World, context: AppContext) -> None:
    hook, one = hooks.create(), world.submit()

    def start_in_vain() -> None:
        with context.database.write() as session:
            attempts.start(session, experiments.find(session, one, lock=True), 1, datetime.now(UTC))
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        start_in_vain()
    assert (hooks.deliver(), hooks.deliveries(hook.id)) == ([], [])


def test_only_what_a_webhook_is_for_is_sent_to_it(hooks: Hooks, context: AppContext) -> None:
    hooks.create("/all")
    hooks.create("/some", events=["experiment.completed"])
    disabled = hooks.create("/disabled")
    with context.database.write() as session:
        session.get_one(Webhook, disabled.id).disabled_at = datetime.now(UTC)
    hooks.publish(Event.STARTED, Event.COMPLETED)
    found = [(one.path, types([one])[0]) for one in hooks.deliver()]
    assert sorted(found) == [
        ("/all", "experiment.completed"),
        ("/all", "experiment.started"),
        ("/some", "experiment.completed"),
    ]
    assert found.index(("/all", "experiment.started")) < found.index(("/all", "experiment.completed")), "in order"


@pytest.mark.parametrize(
    ("event", "state", "text"),
    [
        (Event.STARTED, State.QUEUED, "has started"),
        (Event.PREEMPTED, State.QUEUED, "has lost its slots and waits in the queue"),
        (Event.FAILED, State.PAUSED, "is paused until somebody removes the cause"),
        (Event.FAILED, State.QUEUED, "has failed"),
    ],
)
def test_a_text_for_a_chat(
    hooks: Hooks, world: World, context: AppContext, event: Event, state: State, text: str
) -> None:
    hooks.create(format="slack")
    one = world.submit()
    with context.database.write() as session:
        found = experiments.find(session, one)
        found.name = "a <!channel> & <b>"  # of a version that allowed it
        found.state = state
        notifications.publish(session, event, found, datetime.now(UTC))
    [sent] = hooks.deliver()
    assert json.loads(sent.body) == {
        "text": f"Team default: experiment a &lt;!channel&gt; &amp; &lt;b&gt; ({one}) {text}. "
        f"http://127.0.0.1:8080/api/v1/experiments/{one}"
    }
