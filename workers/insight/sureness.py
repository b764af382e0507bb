"""Sureness: how sure it is that the winner is the best trial, and how good it is.

Everything in it is about the winner, which fresh seeds may have chosen. Puts together intervals, ties and selection for
one experiment. It must not know files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.insight import Interval, Ranked, Replication, Sureness
from search_spaces.phrases import counted
from workers.insight import intervals
from workers.insight.evidence import Evidence
from workers.insight.replication import expected_on_other_images
from workers.insight.selection import expected_of_choice
from workers.insight.ties import worse_than

MOST_LISTED = 30  # trials with their intervals


def sureness(evidence: Evidence, replication: Replication | None = None) -> Sureness:
    """`replication` is that of the same evidence."""
    notes: list[str] = []
    found = Sureness(**_compared(evidence, replication, notes), **_tested(evidence, notes), notes=notes)
    if found.expected is None or not found.validation_images or found.test is None or not found.test_images:
        return found
    test, expected = found.test.value, found.expected.value
    overtuned = intervals.is_lower(test, found.test_images, expected, found.validation_images)
    return found.model_copy(update={"overtuned": overtuned})


def _compared(evidence: Evidence, replication: Replication | None, notes: list[str]) -> dict[str, Any]:
    """What the right and wrong validation images tell."""
    winner = evidence.won.trial
    if evidence.spec.objective.metric != "validation_accuracy":
        what = "smaller loss" if evidence.spec.objective.mode == "min" else evidence.spec.objective.metric
        notes.append(f"trials are compared by which images are right, which does not tell the {what}")
        return {}
    if winner.number not in evidence.outcomes:
        notes.append("the winner cannot be compared: which validation images it got right was not recorded")
        return {}
    images = len(evidence.outcomes[winner.number].right)
    numbers = [trial.number for trial in evidence.trials if trial.number in evidence.outcomes]
    numbers = [number for number in numbers if len(evidence.outcomes[number].right) == images]
    if missing := len(evidence.trials) - len(numbers):
        are = counted(missing, "trial is", "trials are")
        notes.append(
            f"{are} not compared: what they got right is not known, or they are beyond the best {len(numbers)}"
        )
    right = np.array([evidence.outcomes[number].right for number in numbers], bool)
    worse = _worse(numbers, right, replication)
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
        expected = expected_of_choice(right, evidence.spec.seed) if not evidence.won.by_fresh_seeds else None
        expected = expected or expected_on_other_images(evidence)
        found["expected"] = _interval(expected) if expected else None
    return found


def _worse(numbers: list[int], right: NDArray[np.bool_], replication: Replication | None) -> NDArray[np.bool_]:
    """Which trials are worse than the first, the winner: finalists by the difference over their fresh seeds, which is
    shown beside it, and the others by the images that their runs in the search got right."""
    finalists = replication.finalists if replication else []
    by_seeds = {one.trial: one.difference.low > 0 for one in finalists if one.difference}
    rest = [place for place, number in enumerate(numbers) if number not in by_seeds]
    worse = np.array([by_seeds.get(number, False) for number in numbers], bool)
    worse[rest] = worse_than(right[rest], 0)
    return worse


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
