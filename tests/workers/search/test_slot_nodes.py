"""On which of the promised nodes the next trial starts."""

from __future__ import annotations

from collections import Counter

from search_spaces.protocol import Directives, TrialState
from workers.search.slot_nodes import SlotNodes
from workers.state.trial_table import Trial


def trials(count: int) -> dict[int, Trial]:
    return {number: Trial(number, {}, {}, TrialState.RUNNING) for number in range(count)}


def test_trials_take_the_promised_slots_of_each_node_and_then_any() -> None:
    nodes, found, promised = SlotNodes(), trials(4), {"a": 2, "b": 1}
    chosen = [nodes.choose(trial, promised, found) for trial in found.values()]
    assert (Counter(chosen[:3]), chosen[3]) == (Counter({"a": 2, "b": 1}), "")
    assert nodes.choose(found[0], {}, found) == "", "Ray chooses"


def test_the_slot_of_a_trial_that_has_ended_or_yielded_is_for_the_next_one() -> None:
    nodes, found, promised = SlotNodes(), trials(4), {"a": 1, "b": 1}
    first, second = (nodes.choose(found[number], promised, found) for number in range(2))
    assert {first, second} == {"a", "b"}
    found[1].state = TrialState.COMPLETED
    assert nodes.choose(found[2], promised, found) == second
    found[0].state = TrialState.PAUSED
    assert nodes.choose(found[3], promised, found) == first
    found[0].state, found[3].state = TrialState.RUNNING, TrialState.PENDING
    assert nodes.choose(found[0], promised, found) == first, "what it had before does not count against itself"


def test_a_trial_that_needs_a_whole_gpu_takes_all_its_slots() -> None:
    nodes, found = SlotNodes(), trials(3)
    found[0].slots = 4
    assert nodes.choose(found[0], {"a": 4, "b": 2}, found) == "a"
    assert [nodes.choose(found[number], {"a": 4, "b": 2}, found) for number in (1, 2)] == ["b", "b"]
    assert SlotNodes().choose(found[0], {"b": 2}, found) == ""


def test_directives_of_an_older_service_leave_the_nodes_to_ray() -> None:
    assert Directives.model_validate({"slots": 3}).slot_nodes is None
