"""Two days of three busy teams in simulated time. `python -m tests.benchmarks.fair_share` simulates thirty."""

from __future__ import annotations

import pytest

from tests.benchmarks.fair_share.policies import fair
from tests.benchmarks.fair_share.simulation import GRACE_S, MIN_RUN_S, ROUND_S, Outcome, Simulation
from tests.benchmarks.fair_share.workload import CLUSTER, DAY_S, GRANTS, entitled, submissions


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    shares = {team: entitled(team) for team in GRANTS}
    return Simulation(CLUSTER, submissions(2, seed=2), fair(GRANTS), shares).run(2 * DAY_S)


def test_little_is_idle_that_somebody_wants_and_little_is_lost(outcome: Outcome) -> None:
    """For some hours of the second night nobody wants anything."""
    assert outcome.used / outcome.wanted > 0.95
    assert outcome.lost / outcome.busy < 0.01


def test_a_team_below_its_share_waits_no_longer_than_what_is_protected(outcome: Outcome) -> None:
    assert len(outcome.below_share) > 10
    for waited, epoch_s in outcome.below_share:
        assert waited <= MIN_RUN_S + GRACE_S + 2 * ROUND_S, f"epochs of {epoch_s:.0f} s"
