"""Fixtures of the tests of notifications."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service.context import AppContext
from service.scheduling.reconciler import Reconciler
from tests.support.hooks import Hooks
from tests.support.webhook_receiver import WebhookReceiver, webhook_receiver
from tests.support.world import World


@pytest.fixture(scope="module")
def running_receiver() -> Iterator[WebhookReceiver]:
    with webhook_receiver() as found:
        yield found


@pytest.fixture
def hooks(
    world: World, context: AppContext, reconciler: Reconciler, running_receiver: WebhookReceiver
) -> Iterator[Hooks]:
    running_receiver.behave()
    found = Hooks(world, context, reconciler, running_receiver)
    yield found
    found.worker.stop()
