"""Twenty random faults over three experiments that run at once. A seed repeats the faults, not the exact moments.

Run: make test-faults, or with another seed:
RUNG_TEST_FAULTS_SEED=7 python -m pytest tests/faults/test_random_faults.py -m faults -s
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections import Counter
from typing import Any

import pytest

from tests.faults.experiments import parallel, serial, wait_for_end
from tests.faults.invariants import assert_nothing_lost, entries
from tests.faults.stand import Stand

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(3600)]

FAULTS = 20
TRIALS = 30
PARTS = ("service", "mlflow", "ray", "postgres")
VICTIMS = (*PARTS, "driver", "trial", "driver", "trial")  # drivers and trials are hit twice as often
PATIENCE_S = 900.0
#: Any number of lost drivers and no long delays: this tests that nothing is lost, not when Rung stops retrying.
ENDURING = {"MAX_ATTEMPTS": "100", "RETRY_BACKOFF_S": "0.001"}


def test_twenty_faults_at_random(stand: Stand) -> None:
    seed = int(os.environ.get("RUNG_TEST_FAULTS_SEED", "11"))
    draw = random.Random(seed)
    stand.restart_service(**ENDURING)
    stand.wait_until_ready()
    stopping: dict[str, Any] = {
        "max_epochs": 6,
        "early_stopping": {"kind": "asha", "grace_period": 2, "reduction_factor": 2},
    }
    specs = [
        serial("random-a", trials=TRIALS, seed=seed, **stopping, max_restarts=50),
        parallel("random-b", trials=TRIALS, seed=seed + 1, **stopping, max_restarts=50),
        parallel(
            "random-c",
            trials=TRIALS,
            seed=seed + 2,
            **stopping,
            max_restarts=50,
            searcher={"kind": "tpe", "num_samples": TRIALS},
        ),
    ]
    ids = [stand.rung.submit(spec).id for spec in specs]
    hit: Counter[str] = Counter()
    while sum(hit.values()) < FAULTS and _ended_trials(stand, ids) < len(ids) * TRIALS:
        victim, wait, downtime = draw.choice(VICTIMS), draw.randint(0, 3), draw.randint(0, 2)
        _after(stand, ids, wait)
        hit[victim] += _strike(stand, victim, draw)
        if victim in PARTS:
            _after(stand, ids, downtime if victim in {"mlflow", "service"} else 0, driven=victim != "service")
            stand.start(victim, **(ENDURING if victim == "service" else {}))
    print(f"\nseed {seed}: {sum(hit.values())} faults: {dict(hit)}")
    assert sum(hit.values()) == FAULTS, "the experiments ended before all faults had occurred"
    for one in ids:
        wait_for_end(stand, one, PATIENCE_S)
    for one in ids:
        view = assert_nothing_lost(stand, one, TRIALS, trained_again=2 * FAULTS)
        print(f"{view.name}: {view.attempt} attempts, {len(entries(stand, one))} entries in its journal")
    stand.restart_service()


def _strike(stand: Stand, victim: str, draw: random.Random) -> bool:
    """Kill the victim if it runs, and return whether it did."""
    if victim in PARTS:
        stand.kill(victim)
        return True
    found = sorted(stand.pids("workers.driver" if victim == "driver" else "ray::TrialWorker"))
    if not found:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(draw.choice(found), signal.SIGKILL)
        return True
    return False


def _after(stand: Stand, ids: list[str], epochs: int, driven: bool = True) -> None:
    """Wait for `epochs` more epochs in the journals, which can be read no matter what was killed.

    Without a service (`driven` is false) nobody starts a new driver, so the wait also ends with the last driver.
    """
    enough = _epochs(stand, ids) + epochs

    def done() -> bool:
        found = _epochs(stand, ids) >= enough or _all_ended(stand, ids)
        return found or not (driven or stand.pids("workers.driver"))

    stand.wait_until(done, f"{epochs} epochs", PATIENCE_S)


def _epochs(stand: Stand, ids: list[str]) -> int:
    return sum(entry["event"] == "epoch" for one in ids for entry in entries(stand, one))


def _ended_trials(stand: Stand, ids: list[str]) -> int:
    """The number of trials that have ended, according to the journals."""
    return sum("state" in entry for one in ids for entry in entries(stand, one))


def _all_ended(stand: Stand, ids: list[str]) -> bool:
    return _ended_trials(stand, ids) == len(ids) * TRIALS
