"""Here the reconciler's time is a clock that the test moves."""

from __future__ import annotations

import pytest

from service.context import AppContext
from service.scheduling.reconciler import Reconciler
from tests.support.clock import Clock


@pytest.fixture
def reconciler(context: AppContext, clock: Clock) -> Reconciler:
    return Reconciler(context, clock, clock.monotonic)
