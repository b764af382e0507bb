"""Sureness: how sure it is that the winner is the best trial, and how good it is.

Puts together intervals, ties and selection for one experiment. It must not know files.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from search_spaces.insight import Interval, Ranked, Sureness
from search_spaces.phrases import counted
from workers.insight import intervals
from workers.insight.evidence import Evidence
from workers.insight.selection import expected_of_choice
from workers.insight.ties import worse_than

MOST_LISTED = 30  # trials with their intervals


def sureness(evidence: Evidence) -> Sureness:
    notes: list[str] = []
    found = Sureness(**_compared(evidence, notes), **_tested(evidence, notes), notes=notes)
    if found.expected is None or found.test is None:
        return found
    overtuned = intervals.is_overtuned(_estimate(found.expected), _estimate(found.test))
    return found.model_copy(update={"overtuned": overtuned})


def _compared(evidence: Evidence, notes: list[str]) -> dict[str, Any]:
    """What the right and wrong validation images tell."""
    best = evidence.trials[0]
    if evidence.spec.objective.metric != "validation_accuracy":
        what = "smaller loss" if evidence.spec.objective.mode == "min" else evidence.spec.objective.metric
        notes.append(f"trials are compared by which images are right, which does not tell the {what}")
        return {}
    if best.number not in evidence.outcomes:
        notes.append("the winner cannot be compared: which validation images it got right was not recorded")
        return {}
    images = len(evidence.outcomes[best.number].right)
    numbers = [trial.number for trial in evidence.trials if trial.number in evidence.outcomes]
    numbers = [number for number in numbers if len(evidence.outcomes[number].right) == images]
    if missing := len(evidence.trials) - len(numbers):
        are = counted(missing, "trial is", "trials are")
        notes.append(
            f"{are} not compared: what they got right is not known, or they are beyond the best {len(numbers)}"
        )
    right = np.array([evidence.outcomes[number].right for number in numbers], bool)
    worse = worse_than(right, 0)
    found: dict[str, Any] = {
        "validation_images": images,
        "compared": len(numbers),
        "ties": [number for number, is_worse in zip(numbers[1:], worse[1:], strict=True) if not is_worse],
    }
    ranking = zip(numbers, right.mean(1), worse, strict=True)
    found["best"] = [
        Ranked(trial=number, accuracy=_interval(intervals.of_accuracy(float(value), images)), tie=not is_worse)
        for number, value, is_worse in list(ranking)[:MOST_LISTED]
    ]
    if images > 1:
        found["expected"] = _interval(expected_of_choice(right, evidence.spec.seed))
    return found


def _tested(evidence: Evidence, notes: list[str]) -> dict[str, Any]:
    """What the test set tells."""
    if evidence.winner is None:
        notes.append("the winner was not evaluated on the test set")
        return {}
    images = evidence.data.images("test") if evidence.data else 0
    if not images:
        notes.append("the number of test images is not known, so the test accuracy has no interval")
        return {}
    return {"test": _interval(intervals.of_accuracy(evidence.winner.test_accuracy, images)), "test_images": images}


def _interval(estimate: intervals.Estimate) -> Interval:
    return Interval(value=estimate.value, low=estimate.low, high=estimate.high)


def _estimate(interval: Interval) -> intervals.Estimate:
    return intervals.Estimate(interval.value, interval.low, interval.high)
