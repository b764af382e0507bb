"""Notifications on their way: which events there are, what is sent, and what becomes of what cannot be delivered."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, select
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from service.adapters.webhook_sender import WebhookSender
from service.context import AppContext
from service.contract.budgets import BudgetState
from service.contract.states import State
from service.contract.webhook_events import Event
from service.contract.webhooks import CreatedWebhook, DeliveryView, WebhookView
from service.delivery.worker import DeliveryWorker
from service.domain import attempts, deliveries, experiments, notifications
from service.domain.deliveries import DELAYS_S, KEPT, MAX_FAILURES, MAX_TRIES
from service.identity.secret_box import SecretBox
from service.scheduling.reconciler import Reconciler
from service.store.accounts import Team
from service.store.leases import HeldLease
from service.store.webhooks import Delivery, Webhook
from service.webhook_targets import AllowedTargets
from tests.support.clock import Clock
from tests.support.webhook_receiver import Received, WebhookReceiver, webhook_receiver
from tests.support.world import World

API = "/api/v1/webhooks"
SEARCHING = {"phase": "searching"}
TIMEOUT_S = 1.0


@pytest.fixture(scope="module")
def running_receiver() -> Iterator[WebhookReceiver]:
    with webhook_receiver() as found:
        yield found


class Hooks:
    """Webhooks of the team `default` that lead to a receiver, and the worker that serves them."""

    def __init__(self, world: World, context: AppContext, reconciler: Reconciler, receiver: WebhookReceiver) -> None:
        self.world, self.context, self.receiver, self.clock = world, context, receiver, Clock()
        self._seen = len(receiver.received())
        self.held: Callable[[], HeldLease | None] = lambda: reconciler.held
        reconciler.reconcile_once()  # takes the lease; what is submitted afterwards stays in the queue
        self.worker = self.new_worker(context)

    def new_worker(self, context: AppContext) -> DeliveryWorker:
        sender = WebhookSender(AllowedTargets.parse("127.0.0.1"), timeout_s=TIMEOUT_S)
        return DeliveryWorker(context, lambda: self.held(), sender, self.clock)

    def create(self, path: str = "/hook", **more: Any) -> CreatedWebhook:
        answer = self.world.client.post(API, json={"url": f"{self.receiver.url}{path}", **more})
        assert answer.status_code == 201, answer.text
        return CreatedWebhook.model_validate(answer.json())

    def show(self, webhook_id: str) -> WebhookView:
        return WebhookView.model_validate(self.world.client.get(f"{API}/{webhook_id}").json())

    def deliveries(self, webhook_id: str) -> list[DeliveryView]:
        items = self.world.client.get(f"{API}/{webhook_id}/deliveries").json()["items"]
        return [DeliveryView.model_validate(one) for one in items]

    def publish(self, *events: Event) -> None:
        """Events of a new experiment, without what leads to them."""
        with self.context.database.write() as session:
            one = experiments.find(session, self.world.submit(name="night"))
            for event in events:
                notifications.publish(session, event, one, self.clock.now)

    def pass_once(self, after_s: float = 0.0) -> int:
        """One pass after some time; how many tries there were."""
        self.clock.sleep(after_s)
        tries = self.worker.run_once()
        for one in tries:
            one.result()
        return len(tries)

    def deliver(self) -> list[Received]:
        """What arrives until nothing is due."""
        self.clock.now = datetime.now(UTC) + timedelta(seconds=1)
        while self.pass_once():
            pass
        return self.new()

    def new(self) -> list[Received]:
        """What has arrived since the last call."""
        found = self.receiver.received()
        new, self._seen = found[self._seen :], len(found)
        return new


@pytest.fixture
def hooks(
    world: World, context: AppContext, reconciler: Reconciler, running_receiver: WebhookReceiver
) -> Iterator[Hooks]:
    running_receiver.behave()
    found = Hooks(world, context, reconciler, running_receiver)
    yield found
    found.worker.stop()


def types(found: list[Received]) -> list[str]:
    return [json.loads(one.body)["type"] for one in found]


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


@pytest.mark.stores
def test_what_cannot_be_delivered_is_tried_eight_times_in_a_day(hooks: Hooks) -> None:
    hook = hooks.create()
    hooks.receiver.behave(status=503)
    hooks.publish(Event.COMPLETED)
    assert hooks.pass_once(1) == 1
    [view] = hooks.deliveries(hook.id)
    assert (view.state, view.tries, view.status, view.outcome) == ("pending", 1, 503, "answered 503")
    assert view.next_at == hooks.clock.now + timedelta(seconds=DELAYS_S[0])
    assert hooks.show(hook.id).pending == 1
    for delay in DELAYS_S:
        assert hooks.pass_once(delay - 1) == 0
        assert hooks.pass_once(1) == 1
    assert timedelta(hours=23) < timedelta(seconds=sum(DELAYS_S)) < timedelta(hours=25)
    [view] = hooks.deliveries(hook.id)
    assert (view.state, view.tries, view.next_at, view.ended_at) == ("failed", MAX_TRIES, None, hooks.clock.now)
    tries = hooks.new()
    assert len({one.id for one in tries}) == 1, "the id is the same in every try"
    assert len(tries) == MAX_TRIES == 8
    assert len({one.body for one in tries}) == 1
    times = [int(one.headers["webhook-timestamp"]) for one in tries]
    assert times[-1] - times[0] == sum(DELAYS_S), "each try is signed at its own time"
    assert hooks.show(hook.id).disabled_at is None


def test_a_webhook_that_fails_again_and_again_is_disabled(hooks: Hooks) -> None:
    hook = hooks.create()
    hooks.receiver.behave(status=500)
    hooks.publish(*(Event.COMPLETED for _ in range(MAX_FAILURES)))
    for _ in range(MAX_TRIES * MAX_FAILURES - 1):
        hooks.pass_once(max(DELAYS_S))
    hooks.publish(Event.STARTED)  # waits when the webhook is disabled
    hooks.pass_once(max(DELAYS_S))
    shown = hooks.show(hook.id)
    assert shown.disabled_at is not None
    assert shown.disabled_reason == "3 notifications in a row could not be delivered; the last try: answered 500"
    assert shown.pending == 0
    newest, *_ = hooks.deliveries(hook.id)
    assert (newest.state, newest.outcome) == ("failed", "the webhook was disabled")
    hooks.publish(Event.STARTED)
    hooks.receiver.behave()
    hooks.new()
    assert hooks.pass_once(max(DELAYS_S)) == 0
    assert hooks.world.client.post(f"{API}/{hook.id}/test").status_code == 409
    enabled = hooks.world.client.post(f"{API}/{hook.id}/enable").json()
    assert (enabled["disabled_at"], enabled["disabled_reason"]) == (None, None)
    hooks.publish(Event.GOAL_REACHED)
    hooks.pass_once(1)
    assert types(hooks.new()) == ["experiment.goal_reached"], "what was missed is not sent"


def test_a_success_ends_the_series_of_failures(hooks: Hooks, context: AppContext) -> None:
    hook = hooks.create()
    with context.database.write() as session:
        session.get_one(Webhook, hook.id).failures = MAX_FAILURES - 1
    hooks.publish(Event.STARTED)
    assert len(hooks.deliver()) == 1
    with context.database.read() as session:
        assert session.get_one(Webhook, hook.id).failures == 0


def test_a_receiver_that_is_gone_is_left_in_peace(hooks: Hooks) -> None:
    hook = hooks.create()
    hooks.receiver.behave(status=410)
    hooks.publish(Event.STARTED, Event.COMPLETED)
    assert len(hooks.deliver()) == 1
    assert hooks.show(hook.id).disabled_reason == "its receiver wants nothing more (answered 410)"


def test_a_test_is_tried_once_and_is_no_failure(hooks: Hooks, context: AppContext) -> None:
    hook = hooks.create(events=["experiment.completed"])
    hooks.receiver.behave(status=500)
    sent = hooks.world.client.post(f"{API}/{hook.id}/test").json()
    [one] = hooks.deliver()
    assert (one.id, json.loads(one.body)["type"]) == (sent["id"], "webhook.test")
    assert json.loads(one.body)["data"] == {"team": "default"}
    [view] = hooks.deliveries(hook.id)
    assert (view.state, view.tries) == ("failed", 1)
    with context.database.read() as session:
        assert session.get_one(Webhook, hook.id).failures == 0


def test_a_target_that_hangs_holds_up_no_other_and_gets_one_at_a_time(hooks: Hooks) -> None:
    slow = hooks.create("/slow")
    hooks.receiver.behave("hang")
    hooks.publish(Event.STARTED, Event.COMPLETED)
    hooks.clock.sleep(1)
    [hanging] = hooks.worker.run_once()
    hooks.receiver.await_received(hooks._seen + 1)
    hooks.receiver.behave()
    hooks.create("/fast")
    hooks.publish(Event.GOAL_REACHED)
    [fast] = hooks.worker.run_once()
    fast.result()
    assert [one.path for one in hooks.new()] == ["/slow", "/fast"]
    hanging.result()
    assert hooks.deliveries(slow.id)[-1].outcome == f"did not answer within {TIMEOUT_S:g} s"


def test_a_team_has_few_tries_at_a_time(hooks: Hooks) -> None:
    for number in range(5):
        hooks.create(f"/{number}")
    hooks.publish(Event.STARTED)
    assert [hooks.pass_once(1), hooks.pass_once(1), hooks.pass_once(1), hooks.pass_once(1)] == [2, 2, 1, 0]


def test_what_is_read_in_a_pass_does_not_grow_with_the_number_of_targets(hooks: Hooks, context: AppContext) -> None:
    now = hooks.clock.now
    with context.database.write() as session:
        for number in range(3 * deliveries.MANY):
            team, seconds = f"team-{number}", timedelta(seconds=number)
            session.add(Team(id=team, name=team, created_at=now))
            session.flush()
            texts = dict.fromkeys(("origin", "url_encrypted", "secret_encrypted"), "x")
            row = Webhook(id=f"hook-{number}", team_id=team, format="slack", events=[], created_at=now, **texts)
            session.add(row)
            session.flush()
            notifications.request(session, row, Event.BUDGET, {}, now - seconds)
    read = list[object]()

    def note(one: object, _: object) -> None:
        read.append(one)

    event.listen(Delivery, "load", note)
    with context.database.read() as session:
        found = deliveries.due(session, now, {}, 3)
    event.remove(Delivery, "load", note)
    assert [one.webhook.id for one in found] == [f"hook-{3 * deliveries.MANY - number}" for number in (1, 2, 3)]
    assert len(read) <= deliveries.MANY


def test_only_the_holder_of_the_lease_sends_and_records(hooks: Hooks) -> None:
    hook = hooks.create()
    hooks.publish(Event.STARTED)
    hooks.clock.sleep(1)
    held = hooks.held()
    assert held is not None
    hooks.held = lambda: None
    assert hooks.worker.run_once() == []
    hooks.held = lambda: replace(held, fence=held.fence - 1)
    hooks.worker._swept_at = float("inf")  # what comes first would notice it already
    [one] = hooks.worker.run_once()
    one.result()
    assert hooks.deliveries(hook.id)[0].tries == 0, "another replica acts: nothing is written"
    hooks.held = lambda: held
    [one] = hooks.worker.run_once()
    one.result()
    first, second = hooks.new()
    assert first.id == second.id, "sent again, as the same"


def test_secrets_are_stored_encrypted_and_another_key_cannot_read_them(hooks: Hooks, context: AppContext) -> None:
    hook = hooks.create("/path-of-a-chat")
    with context.database.read() as session:
        row = session.get_one(Webhook, hook.id)
        stored = json.dumps({column.name: str(getattr(row, column.name)) for column in Webhook.__table__.columns})
    assert hook.secret.removeprefix("whsec_") not in stored
    assert "path-of-a-chat" not in stored
    hooks.publish(Event.STARTED)
    other = replace(context, secrets=SecretBox(["b3RoZXIg" * 5 + "b3Q="]))
    hooks.clock.sleep(1)
    worker = hooks.new_worker(other)
    [one] = worker.run_once()
    one.result()
    worker.stop()
    [view] = hooks.deliveries(hook.id)
    assert (view.state, view.tries) == ("pending", 1)
    assert view.outcome.startswith("its URL and secret cannot be read: RUNG_SECRET_KEY has another key")
    assert hooks.new() == []


def test_what_waits_is_bounded(hooks: Hooks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    hook = hooks.create()
    monkeypatch.setattr(notifications, "MAX_PENDING", 2)
    hooks.publish(*(Event.STARTED for _ in range(4)))
    assert hooks.show(hook.id).pending == 2
    assert "experiment.started is left out" in caplog.text
    refused = hooks.world.client.post(f"{API}/{hook.id}/test")
    assert (refused.status_code, "2 notifications wait" in refused.text) == (409, True)


def test_what_waits_is_counted_without_what_was_sent(hooks: Hooks, context: AppContext) -> None:
    hook = hooks.create()
    statements: list[tuple[str, Any]] = []
    with context.database.read() as session:
        row, connection = session.get_one(Webhook, hook.id), session.connection()
        event.listen(
            connection, "before_cursor_execute", lambda _, __, text, given, *___: statements.append((text, given))
        )
        assert not notifications.is_full(session, row)
        [(text, given)] = statements
        plan = [step.detail for step in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", given)]
    assert plan == ["SEARCH deliveries USING INDEX ix_deliveries_waiting (webhook_id=?)"]


def test_what_ended_long_ago_is_forgotten(hooks: Hooks, context: AppContext) -> None:
    hook = hooks.create()
    hooks.publish(Event.STARTED)
    assert len(hooks.deliver()) == 1
    hooks.worker._swept_at = float("-inf")
    hooks.pass_once(KEPT.total_seconds() - 60)
    assert len(hooks.deliveries(hook.id)) == 1
    hooks.worker._swept_at = float("-inf")
    hooks.pass_once(120)
    with context.database.read() as session:
        assert session.scalars(select(Delivery)).all() == []


def test_an_event_of_a_newer_version_harms_nothing_else(hooks: Hooks, context: AppContext) -> None:
    hook = hooks.create(format="slack")
    hooks.publish(Event.STARTED, Event.COMPLETED)
    with context.database.write() as session:
        session.scalars(select(Delivery).order_by(Delivery.id)).first().event = "experiment.of-the-future"  # type: ignore[union-attr]
    [one] = hooks.deliver()
    assert "is completed" in one.body
    newest, oldest = hooks.deliveries(hook.id)
    assert (newest.state, oldest.state, oldest.tries) == ("delivered", "pending", 1)
    assert oldest.outcome.startswith("internal error")
