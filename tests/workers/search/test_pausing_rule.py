"""A stopping rule that pauses: the trial yields its slot and resumes after its newest epoch, also after a crash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ray.exceptions import ActorDiedError
from ray.tune.schedulers import TrialScheduler

from search_spaces.storage.folder import FolderStorage
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


def test_the_reason_of_a_pause_is_stored_and_shown_until_the_trial_resumes(
    search: Callable[..., Search], tmp_path: Path
) -> None:
    now = search(rule=Pausing(), searcher={"kind": "random", "num_samples": 1})
    now.tune.report(now.tune.start(), 1, 0.5)
    assert now.recorder.update_of(0).stop_reason == Pausing.REASON
    (released,) = (entry for entry in FolderStorage(tmp_path).journal.entries() if entry["event"] == "released")
    assert released["reason"] == Pausing.REASON
    now.recorder.close()
    after = search(2, rule=Pausing(), searcher={"kind": "random", "num_samples": 1})
    assert after.recorder.update_of(0).stop_reason == Pausing.REASON
    trial = after.tune.start()
    assert after.recorder.update_of(0).stop_reason == ""
    after.tune.report(trial, 2, 0.6)
    after.recorder.close()
    assert search(3, rule=Pausing()).recorder.update_of(0).stop_reason == ""


def test_a_trial_that_is_interrupted_after_it_resumed_comes_before_new_ones(
    search: Callable[..., Search], tmp_path: Path
) -> None:
    now = search(rule=Pausing(), searcher={"kind": "random", "num_samples": 2})
    for _ in range(2):
        now.tune.report(now.tune.start(), 1, 0.5)
    now.tune.fail(now.tune.start(), ActorDiedError(), tmp_path)  # trial 0, in its second epoch
    assert now.states() == ["PENDING", "PAUSED"]
    now.recorder.close()
    after = search(2, rule=Pausing(), searcher={"kind": "random", "num_samples": 3})
    assert [after.tune.start().config["trial"] for _ in range(3)] == [0, 2, 1]


def test_a_paused_trial_that_is_withdrawn_before_it_has_a_slot_stays_paused_by_the_rule(
    search: Callable[..., Search],
) -> None:
    now = search(rule=Pausing(), searcher={"kind": "random", "num_samples": 1})
    now.tune.report(now.tune.start(), 1, 0.5)
    now.tune.start(waits=True)
    now.service.directives = now.service.directives.model_copy(update={"slots": 0})
    now.callback.poll(now.tune)
    assert (now.states(), now.recorder.update_of(0).stop_reason) == (["PAUSED"], Pausing.REASON)
