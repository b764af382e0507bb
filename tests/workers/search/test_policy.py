"""The search policy: what follows from directives, controls and the trial table, without a search that runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from search_spaces.controls import Controls
from search_spaces.objective import Objective
from search_spaces.protocol import Directives, ErrorKind, TrialState
from tests.support.workers import BuildSpec, OpenRecorder
from workers.failures.classification import Failure
from workers.search.policy import Actions, Reaction, SearchPolicy
from workers.state.trial_table import Trial, TrialTable


@pytest.fixture
def decide(experiment: BuildSpec, open_recorder: OpenRecorder) -> Callable[..., Actions]:
    """`decide(directives, running=.., ended=.., waiting=.., spec fields)`: three kinds of trials, four wanted.

    Running trials have the lowest numbers.
    """

    def build(
        directives: Directives, running: int = 0, ended: int = 0, waiting: int = 0, fenced: bool = False, **fields: Any
    ) -> Actions:
        spec = experiment(**({"searcher": {"kind": "random", "num_samples": 4}} | fields))
        recorder = open_recorder()
        for number in range(running + ended + waiting):
            recorder.record_suggestion(number, {}, {})
            if number < running:
                recorder.mark_started(number)
            elif number < running + ended:
                recorder.record_end(number, TrialState.COMPLETED, "done")
        return SearchPolicy(spec).decide(directives, fenced, recorder.table, recorder.clock)

    return build


@pytest.mark.parametrize(("granted", "wanted", "slots"), [(4, None, 4), (4, 3, 3), (2, 3, 2), (0, None, 0)])
def test_slots_are_limited_by_the_grant_and_by_the_controls(
    decide: Callable[..., Actions], granted: int, wanted: int | None, slots: int
) -> None:
    controls = Controls(num_samples=4, max_concurrent_trials=wanted)
    assert decide(Directives(slots=granted, controls=controls)).slots == slots


@pytest.mark.parametrize(("slots", "surplus"), [(3, 0), (2, 0), (1, 1), (0, 2)])
def test_more_running_trials_than_slots_are_a_surplus(decide: Callable[..., Actions], slots: int, surplus: int) -> None:
    assert decide(Directives(slots=slots), running=2, waiting=1).surplus == surplus
    canceled = [0, 3, 77]  # one runs, one waits, one is unknown
    assert decide(Directives(slots=slots, cancel_trials=canceled), running=3, waiting=1).surplus == surplus


@pytest.mark.parametrize(
    ("slots", "trials", "released"),
    [
        (2, {"running": 1, "ended": 1}, False),  # a third trial is wanted
        (1, {"running": 1, "ended": 1}, True),  # but may not run
        (2, {"running": 1, "ended": 3}, True),  # no further trial is wanted
        (2, {"running": 1, "ended": 2, "waiting": 1}, False),
    ],
)
def test_an_idle_process_is_released_if_no_trial_will_use_it(
    decide: Callable[..., Actions], slots: int, trials: dict[str, int], released: bool
) -> None:
    assert decide(Directives(slots=slots), **trials).release_idle == released


@pytest.mark.parametrize(
    ("directives", "fenced", "phase"),
    [
        (Directives(slots=2), False, None),
        (Directives(slots=2, stop="cancel"), False, "canceled"),
        (Directives(slots=2, stop="pause"), False, "paused"),
        (Directives(slots=2, stop="pause"), True, "superseded"),
    ],
)
def test_the_service_and_the_fence_end_the_search(
    decide: Callable[..., Actions], directives: Directives, fenced: bool, phase: str | None
) -> None:
    actions = decide(directives, fenced=fenced)
    found = actions.outcome
    assert (found and ("superseded" if found.superseded else found.phase)) == phase
    assert actions.slots == (2 if phase is None else 0)


def test_an_exhaustive_search_wants_no_more_trials_than_combinations(experiment: BuildSpec) -> None:
    grid = experiment(searcher={"kind": "grid"}, search_space={"batch_size": {"choice": [16, 32, 64]}})
    more = Directives(slots=1, controls=Controls(num_samples=9))
    none = TrialTable(Objective())
    assert SearchPolicy(experiment()).num_samples(more, none) == 9
    assert [SearchPolicy(grid).num_samples(asked, none) for asked in (more, Directives(slots=1))] == [3, 3]


@pytest.mark.parametrize(
    ("kind", "restarts", "reaction"),
    [
        (ErrorKind.LOST, 1, Reaction.RESTART),
        (ErrorKind.LOST, 2, Reaction.END),
        (ErrorKind.OUT_OF_MEMORY, 0, Reaction.RESTART),
        (ErrorKind.DATA, 0, Reaction.END),
        (ErrorKind.CODE, 0, Reaction.END),
        (ErrorKind.DISK_FULL, 9, Reaction.PAUSE),
    ],
)
def test_a_failed_trial_is_restarted_ends_or_pauses_the_experiment(
    experiment: BuildSpec, kind: ErrorKind, restarts: int, reaction: Reaction
) -> None:
    controls = Controls(num_samples=4, max_restarts=2)
    trial = Trial(0, {}, {}, restarts=restarts)
    assert SearchPolicy(experiment()).react(Failure(kind, "why"), trial, controls) is reaction
