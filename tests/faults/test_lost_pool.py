"""Two pools search at the same time, each on its own nodes, and one of them loses its only node."""

from __future__ import annotations

import pytest

from search_spaces.protocol import DEFAULT_TEAM
from tests.faults.experiments import TRIALS, parallel, wait_for_end, wait_for_epochs
from tests.faults.invariants import assert_nothing_lost, finished
from tests.faults.stand import running_stand
from tests.support.postgres import why_missing

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(1200)]

POOL, LABELS = "special", {"machine": "special"}
IN_POOL = {"max_concurrent_trials": 2, "pool": POOL}


@pytest.mark.skipif(bool(why_missing()), reason=why_missing() or "")
def test_a_pool_that_loses_its_node_waits_for_another_and_disturbs_no_other_pool() -> None:
    with running_stand() as stand:
        stand.rung.pools.create(POOL, LABELS)
        stand.rung.pools.change_grant(DEFAULT_TEAM, {"weight": 1}, pool=POOL)
        with stand.node("special-1", cpus=2, labels=LABELS):
            usual = stand.rung.submit(parallel("usual")).id
            special = stand.rung.submit(parallel("special", resources=IN_POOL)).id
            wait_for_epochs(stand, usual, 1)
            wait_for_epochs(stand, special, 1)
            before = finished(stand, special)
        # The head has CPUs, and its pool soon nothing to do: they are not for this experiment.
        view = assert_nothing_lost(stand, wait_for_end(stand, usual).id, TRIALS, trained_again=0)
        assert view.attempt == 1, "no trial of the other pool was on that node"
        none = f"waiting for a node: the pool {POOL} has none"
        stand.wait_until(lambda: stand.rung.get(special).reason == none, "the experiment waits for a node of its pool")
        with stand.node("special-2", cpus=2, labels=LABELS):
            wait_for_end(stand, special)
            assert_nothing_lost(stand, special, TRIALS, before=before)
