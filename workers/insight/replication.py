"""Replication: what the fresh seeds of the finalists tell.

Pure functions. Owns the intervals over seeds and images. It must not know files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from search_spaces.finalist_ties import is_equal
from search_spaces.insight import Finalist, Interval, Replication
from workers.insight import selection
from workers.insight.evidence import Evidence
from workers.insight.intervals import LEVEL, Estimate
from workers.state.fresh_seeds import ranked
from workers.state.trial_table import Trial

DRAWS = 2000
BLOCK = 2**22  # weights in memory at a time: 16 MB

Floats = NDArray[np.float64]


def replication(evidence: Evidence) -> Replication | None:
    """None where the replicates do not decide."""
    sign = evidence.spec.objective.sign
    order = ranked(evidence.replicates, evidence.best, evidence.spec.finalists.seeds, sign)
    if not order:
        return None
    values = [[run.best_value or 0.0 for run in one.runs] for one in order]
    by_trial = {one.trial: values[place] for place, one in enumerate(order)}
    one_seed = evidence.spec.finalists.seeds == 1  # which does not tell how much seeds differ
    right = [] if one_seed else _right(evidence, [one.runs for one in order])
    found, differences = estimates(right, evidence.spec.seed) if right else ([], [])
    of_others = [None, *map(_interval, differences)] if differences else [None] * len(order)
    return Replication(
        chosen=order[0].trial,
        finalists=[
            Finalist(
                trial=one.trial,
                runs=[run.number for run in one.runs],
                values=values[place],
                mean=one.mean,
                sd=stdev(values[place]) if len(values[place]) > 1 else None,
                accuracy=_share(found[place]) if found else None,
                difference=of_others[place],
            )
            for place, one in enumerate(order)
        ],
        expected=None if one_seed else expected_of_choice([by_trial[trial] for trial in sorted(by_trial)], sign),
        difference=of_others[1] if len(of_others) > 1 else None,
    )


def expected_of_choice(values: Sequence[Sequence[float]], sign: int) -> float:
    """The value to expect of the finalist with the best mean, the first of equal ones: `values` [finalists][seeds].

    Each seed in turn is left out, the others choose, and the one left out measures: there must be two at least.
    """
    seeds = len(values[0])
    measured = []
    for left_out in range(seeds):
        means = [fmean(value for seed, value in enumerate(one) if seed != left_out) for one in values]
        best = max(means, key=lambda mean: sign * mean)
        chosen = next(one for one, mean in zip(values, means, strict=True) if is_equal(mean, best))
        measured.append(chosen[left_out])
    return fmean(measured)


def expected_on_other_images(evidence: Evidence) -> Estimate | None:
    """The accuracy to expect of the finalist that is chosen by its fresh seeds, on images that did not choose it; None
    where it is not known which images the runs got right."""
    order = ranked(evidence.replicates, evidence.best, evidence.spec.finalists.seeds, evidence.spec.objective.sign)
    right = _right(evidence, [one.runs for one in order])
    if not right or right[0].shape[1] < 2:
        return None
    return selection.expected_of_choice(np.array([one.sum(0) for one in right]), evidence.spec.seed, len(right[0]))


def estimates(right: Sequence[NDArray[np.bool_]], seed: int = 0) -> tuple[list[Estimate], list[Estimate]]:
    """The accuracy of each finalist with its interval, and the difference of the first to each other one, paired on
    images.

    `right` has for each finalist which images its runs got right: [seeds, images], with the same numbers for all. The
    bootstrap draws images, the same for all finalists, and for each finalist the deviations of its seeds from those of
    all finalists: so few seeds do not tell how much seeds differ. They are widened as Student's t
    distribution asks of so few.
    """
    random = np.random.default_rng(seed)
    means = np.array([one.mean(1) for one in right])
    by_image = np.array([one.mean(0) for one in right])
    finalists, seeds = means.shape
    draws = _over_images(by_image, random)
    if seeds > 1:
        freedom = finalists * (seeds - 1)
        width = math.sqrt(seeds / (seeds - 1)) * stats.t.ppf((1 + LEVEL) / 2, freedom) / stats.norm.ppf((1 + LEVEL) / 2)
        deviations = width * (means - means.mean(1, keepdims=True)).ravel()
        draws += random.choice(deviations, (DRAWS, finalists, seeds)).mean(2)
    values = by_image.mean(1)
    found = [_estimate(float(values[place]), draws[:, place]) for place in range(finalists)]
    others = range(1, finalists)
    return found, [_estimate(float(values[0] - values[one]), draws[:, 0] - draws[:, one]) for one in others]


def _over_images(by_image: Floats, random: np.random.Generator) -> Floats:
    """[draws, finalists]: the means over images that are drawn with replacement."""
    images = by_image.shape[1]
    found = np.empty((DRAWS, len(by_image)))
    step = max(1, BLOCK // images)
    for start in range(0, DRAWS, step):
        size = min(step, DRAWS - start)
        drawn = random.integers(images, size=(size, images)) + images * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * images).reshape(size, images)
        found[start : start + size] = times @ by_image.T / images
    return found


def _estimate(value: float, draws: Floats) -> Estimate:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def _right(evidence: Evidence, groups: Sequence[Sequence[Trial]]) -> list[NDArray[np.bool_]]:
    """Which validation images each run got right; empty where that is not known of all, or does not tell the value."""
    outcomes = [[evidence.outcomes.get(run.number) for run in runs] for runs in groups]
    known = [[one.right for one in runs if one is not None] for runs in outcomes]
    sizes = {len(one) for runs in known for one in runs}
    complete = all(len(have) == len(runs) for have, runs in zip(known, outcomes, strict=True))
    if evidence.spec.objective.metric != "validation_accuracy" or not complete or len(sizes) != 1:
        return []
    return [np.array(runs, bool) for runs in known]


def _share(found: Estimate) -> Interval:
    """Of a value in [0, 1], as its interval is then too."""
    return Interval(value=found.value, low=max(0.0, found.low), high=min(1.0, found.high))


def _interval(found: Estimate) -> Interval:
    return Interval(value=found.value, low=found.low, high=found.high)
