"""The rows of the fault table about a reclaim: what is killed while an experiment yields its slots to another one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.faults.experiments import TRIALS, driver_of, parallel, serial, wait_for_end, wait_for_epochs
from tests.faults.invariants import assert_nothing_lost, finished
from tests.faults.stand import CPUS, Stand

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(1200)]

#: Longer than what must yield needs for a start, an epoch and an end of its driver.
URGENT: dict[str, Any] = {"max_epochs": 30, "early_stopping": "none", "priority": 9}


@pytest.fixture
def quick_reclaim(stand: Stand) -> Iterator[None]:
    """What has started is protected for a second, and ends its driver after two seconds without a slot."""
    _execute(stand, "INSERT INTO pools (name, stop, min_run_s, preempt_grace_s) VALUES ('default', 'none', 1, 30)")
    stand.restart_service(PARK_S="2")
    stand.wait_until_ready()
    yield
    _execute(stand, "DELETE FROM pools")
    stand.restart_service()
    stand.wait_until_ready()


@pytest.mark.parametrize(
    ("killed", "moment"),
    [
        ("driver", "RUNNING"),
        ("driver", "PREEMPTING"),
        ("service", "RUNNING"),
        ("service", "PREEMPTING"),
        ("ray", "RUNNING"),
    ],
)
def test_killed_during_a_reclaim(
    stand: Stand, undisturbed: Callable[..., str], quick_reclaim: None, killed: str, moment: str
) -> None:
    """While the experiment has lost its slot, or while its driver is to end because of that."""
    like = undisturbed()
    yielding = stand.rung.submit(serial(f"yields-{killed}-{moment.lower()}"))
    wait_for_epochs(stand, yielding.id, 3)
    driver = driver_of(stand, yielding.id)
    urgent = stand.rung.submit(parallel("urgent", trials=CPUS, resources={"max_concurrent_trials": CPUS}, **URGENT))

    def reclaimed() -> bool:
        view = stand.rung.get(yielding.id)
        return view.state == moment and not view.slots

    stand.wait_until(reclaimed, f"it is {moment} without a slot", look_s=0.02)
    before = finished(stand, yielding.id)
    if killed == "driver":
        os.kill(driver, signal.SIGKILL)
    else:
        stand.kill(killed)
        stand.start(killed, **({"PARK_S": "2"} if killed == "service" else {}))
    wait_for_end(stand, urgent.id)
    wait_for_end(stand, yielding.id)
    view = assert_nothing_lost(stand, yielding.id, TRIALS, like=like, before=before, trained_again=1)
    assert view.attempt >= 2, "its driver ended"
    assert stand.rung.get(urgent.id).state == "COMPLETED"


def _execute(stand: Stand, statement: str) -> None:
    with psycopg.connect(stand.dsn("rung")) as connection:
        connection.execute(statement)
