"""Rounds of a reconciler over a span of time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

from service.adapters.launcher import ClusterUnreachableError, JobStatus
from service.scheduling.reconciler import Reconciler
from tests.support.clock import Clock
from tests.support.world import World

STEP_S = 2.0


def reconcile_for(reconciler: Reconciler, clock: Clock, seconds: float) -> None:
    """Run rounds at the pace of the reconciler's thread, for `seconds` of the clock."""
    for _ in range(math.ceil(seconds / STEP_S)):
        clock.sleep(STEP_S)
        reconciler.reconcile_once()


def heard_while_asked(world: World, experiment_id: str) -> Callable[[str], JobStatus]:
    """Stands for the launcher's `status`: a heartbeat of the experiment's driver arrives just before Ray answers."""
    status = world.launcher.status

    def answer(attempt_id: str) -> JobStatus:
        world.beat(experiment_id, {"phase": "searching"})
        return status(attempt_id)

    return answer


def refuse(*_: Any) -> NoReturn:
    """Stands for any call to a Ray that answers with an error."""
    raise ClusterUnreachableError("500 Internal Server Error")
