"""Notifications on their way: when each is tried, and what becomes of what cannot be delivered."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select

from service.context import AppContext
from service.contract.webhook_events import Event
from service.domain import deliveries, notifications
from service.domain.deliveries import DELAYS_S, KEPT, MAX_FAILURES, MAX_TRIES
from service.identity.secret_box import SecretBox
from service.store.accounts import Team
from service.store.webhooks import Delivery, Webhook
from tests.support.hooks import API, TIMEOUT_S, Hooks, types


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
