"""Webhooks of a team in tests: what a receiver gets of them, and the worker that sends it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from service.adapters.webhook_sender import WebhookSender
from service.context import AppContext
from service.contract.webhook_events import Event
from service.contract.webhooks import CreatedWebhook, DeliveryView, WebhookView
from service.delivery.worker import DeliveryWorker
from service.domain import experiments, notifications
from service.scheduling.reconciler import Reconciler
from service.store.leases import HeldLease
from service.webhook_targets import AllowedTargets
from tests.support.clock import Clock
from tests.support.webhook_receiver import Received, WebhookReceiver
from tests.support.world import World

API = "/api/v1/webhooks"
TIMEOUT_S = 1.0


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


def types(found: list[Received]) -> list[str]:
    return [json.loads(one.body)["type"] for one in found]
