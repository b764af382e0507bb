"""Rounds of a reconciler over a span of time."""

from __future__ import annotations

import math
from typing import Any, NoReturn

from service.adapters.launcher import ClusterUnreachableError
from service.scheduling.reconciler import Reconciler
from tests.support.clock import Clock

STEP_S = 2.0


def reconcile_for(reconciler: Reconciler, clock: Clock, seconds: float) -> None:
    """Run rounds at the pace of the reconciler's thread, for `seconds` of the clock."""
    for _ in range(math.ceil(seconds / STEP_S)):
        clock.sleep(STEP_S)
        reconciler.reconcile_once()


def refuse(*_: Any) -> NoReturn:
    """Stands for any call to a Ray that answers with an error."""
    raise ClusterUnreachableError("500 Internal Server Error")
