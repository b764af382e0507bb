"""A stopping rule that pauses: the trial yields its slot and resumes after its newest epoch, also after a crash."""

from __future__ import annotations

from collections.abc import Callable

from ray.tune.schedulers import TrialScheduler

from tests.support.pausing import Pausing
from tests.support.searches import Search


def test_a_paused_trial_yields_to_new_ones_and_resumes_after_its_newest_epoch(search: Callable[..., Search]) -> None:
    two = {"searcher": {"kind": "random", "num_samples": 2}, "max_epochs": 2}
    now = search(rule=Pausing(), **two)
    for number in (0, 1):
        trial = now.tune.start()
        assert (trial.config["trial"], trial.config["epoch"]) == (number, 0)
        assert now.tune.report(trial, 1, 0.5) == TrialScheduler.STOP
    assert now.states() == ["PAUSED", "PAUSED"]
    resumed = now.tune.start()
    assert (resumed.config["trial"], resumed.config["epoch"]) == (0, 1)
    assert now.tune.report(resumed, 1, 0.5) == TrialScheduler.CONTINUE, "the epoch after which it was paused"
    assert now.tune.report(resumed, 2, 0.6) == TrialScheduler.STOP
    assert now.states() == ["COMPLETED", "PAUSED"]
    now.recorder.close()
    after = search(2, rule=Pausing(), **two)
    last = after.tune.start()
    assert (last.config["trial"], last.config["epoch"]) == (1, 1)
    after.tune.finish(last, 0.7)
    assert after.states() == ["COMPLETED", "COMPLETED"]
