"""A search that brings nothing new starts no further trials, also after a crash, and continues if one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from search_spaces.controls import Controls
from search_spaces.protocol import Directives, ErrorKind, TrialState
from tests.support.attempts import Attempted
from tests.support.searches import Search
from tests.support.workers import BuildSpec
from workers.search.tune_callbacks import TuneCallback
from workers.state.events import EpochFinished, Event, TrialSuggested
from workers.state.recorder import Recorder

ONE_EPOCH: dict[str, Any] = {"max_epochs": 1, "early_stopping": "none", "budget": {"trials_without_improvement": 2}}
#: Values of trials that run one after the other, and the number of those that ended since the best value improved.
CURVES = [(0.5, 0), (0.4, 1), (0.6, 0), (0.6, 1), (0.3, 2)]


def test_no_trial_is_started_after_two_ended_without_an_improvement(search: Callable[..., Search]) -> None:
    now = search(**ONE_EPOCH)
    for value, count in CURVES:
        assert now.tune.report(now.tune.start(), 1, value) == TrialScheduler.STOP
        assert now.recorder.table.ended_without_improvement == count
    assert now.tune.start() == "FINISHED"
    assert now.searcher.exhausted()
    assert now.callback.outcome is None
    assert now.callback.why_fewer() == (
        "budget.trials_without_improvement of 2 is used up: no improvement in 2 trials; trial 2 has 0.6000"
    )


@pytest.mark.parametrize("crash", range(1, len(CURVES) + 1))
def test_a_search_that_crashed_ends_where_it_would_have_ended(search: Callable[..., Search], crash: int) -> None:
    now = search(**ONE_EPOCH)
    for value, _ in CURVES[:crash]:
        now.tune.report(now.tune.start(), 1, value)
    now.recorder.close()
    after = search(2, **ONE_EPOCH)
    for value, count in CURVES[crash:]:
        after.tune.report(after.tune.start(), 1, value)
        assert after.recorder.table.ended_without_improvement == count
    assert after.searcher.exhausted()
    assert after.tune.start() == "FINISHED"
    assert len(after.trials) == len(CURVES)


def test_running_trials_end_normally_and_may_let_the_search_continue(search: Callable[..., Search]) -> None:
    now = search(**ONE_EPOCH | {"max_epochs": 3})
    slow, first = now.tune.start(), now.tune.start()
    now.tune.finish(first, 0.5)
    for value in (0.4, 0.3):
        now.tune.finish(now.tune.start(), value)
    assert now.tune.start() is None
    assert now.states() == ["RUNNING", "COMPLETED", "COMPLETED", "COMPLETED"]
    assert now.tune.report(slow, 1, 0.5) == TrialScheduler.CONTINUE
    assert now.tune.start() is None
    assert now.tune.report(slow, 2, 0.51) == TrialScheduler.CONTINUE
    assert now.callback.why_fewer() == ""
    assert now.tune.start().config["trial"] == 4
    now.tune.report(slow, 3, 0.2)
    assert now.recorder.table.ended_without_improvement == 0, "it has the best value"


def test_the_limit_changes_while_the_experiment_runs(search: Callable[..., Search], experiment: BuildSpec) -> None:
    now = search(**ONE_EPOCH)
    for value in (0.5, 0.4, 0.3):
        now.tune.report(now.tune.start(), 1, value)
    assert now.searcher.exhausted()
    controls = Controls.of(experiment(**ONE_EPOCH)).model_dump()
    for limit, starts in ((3, True), (None, True), (2, False)):
        changed = controls | {"budget": {"trials_without_improvement": limit}}
        now.service.directives = Directives(slots=4, controls=Controls.model_validate(changed))
        assert now.searcher.exhausted() != starts
    assert now.tune.start() == "FINISHED"


def test_only_trials_with_a_result_count(search: Callable[..., Search], tmp_path: Path) -> None:
    now = search(**ONE_EPOCH)
    now.tune.finish(now.tune.start(), 0.5)
    now.tune.fail(now.tune.start(), ValueError("x"), tmp_path)
    assert now.recorder.table.trials[1].error_kind is ErrorKind.CODE
    now.tune.start()
    now.service.directives = Directives(slots=4, cancel_trials=[2])
    now.callback.poll(now.tune)
    assert now.states() == ["COMPLETED", "ERROR", "CANCELED"]
    assert now.recorder.table.ended_without_improvement == 0
    now.tune.report(now.tune.start(), 1, 0.9, diverged=True)
    assert now.recorder.table.ended_without_improvement == 1


def test_imported_trials_give_the_value_to_improve_on_and_do_not_count(
    search: Callable[..., Search],
) -> None:
    now = search(**ONE_EPOCH)
    now.recorder.record_import(imported(0.6, 0.5, 0.4))
    assert now.recorder.table.ended_without_improvement == 0
    now.tune.report(now.tune.start(), 1, 0.55)
    assert now.recorder.table.ended_without_improvement == 1
    now.tune.report(now.tune.start(), 1, 0.61)
    assert now.recorder.table.ended_without_improvement == 0


def imported(*values: float) -> Iterator[Event]:
    for number, value in enumerate(values):
        of = {"at": 1.0, "trial": number, "source": f"other/{number}"}
        yield TrialSuggested(**of, sample={}, parameters={})
        metrics = {"validation_accuracy": value}
        yield EpochFinished(**of, epoch=1, metrics=metrics, state=TrialState.COMPLETED, reason="done")


def test_the_reason_of_the_experiment_says_why_it_ended(attempt: Callable[..., Attempted], service: Any) -> None:
    def run(recorder: Recorder, callback: TuneCallback) -> None:
        for number, value in enumerate((0.5, 0.4, 0.3)):
            recorder.record_suggestion(number, {}, {})
            recorder.record_epoch(number, 1, {"validation_accuracy": value}, (TrialState.COMPLETED, "done"))
            assert callback.num_samples() == (9 if number < 2 else 3)

    done = attempt(run, controls=Controls.model_validate({"num_samples": 9, "budget": ONE_EPOCH["budget"]}))
    assert done.succeeded
    final = service.heard[-1]
    assert (final.phase, final.reason) == (
        "completed",
        "budget.trials_without_improvement of 2 is used up: no improvement in 2 trials; trial 0 has 0.5000",
    )
    assert final.winner.trial == 0
