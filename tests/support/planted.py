"""Planted truths: outcomes and searches of which the true answer is known, for tests of what Rung concludes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from search_spaces.early_stopping.base import Action, Comparison
from search_spaces.experiment import ExperimentSpec
from search_spaces.searchers.base import Finding, SearchProblem, TrialResult

#: Of the variance of two trials' outcomes on one image: some images are hard for every network.
SHARED = 0.7
#: The domains of `additive_search`, all of which are uniform, and the shares of the variance that are planted.
PLANTED = {
    "optimizer.lr": 0.75,
    "optimizer.momentum": 0.19,
    "optimizer.weight_decay": 0.05,
    "augmentation.rotation": 0.01,
    "augmentation.brightness": 0.0,
    "augmentation.contrast": 0.0,
}
ADDITIVE = {
    "optimizer": {
        "kind": "sgd",
        "lr": {"uniform": [0.5, 1.5]},
        "momentum": {"uniform": [0, 0.9]},
        "weight_decay": {"uniform": [0, 1]},
    },
    "augmentation": {
        "rotation": {"uniform": [0, 90]},
        "brightness": {"uniform": [0, 1]},
        "contrast": {"uniform": [0, 1]},
    },
}


def outcomes(accuracies: Sequence[float], images: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """Which of `images` images trials of these true accuracies get right: [trials, images]."""
    common = random.normal(size=images)
    own = random.normal(size=(len(accuracies), images))
    difficulty = np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * own
    return np.asarray(difficulty < stats.norm.ppf(accuracies)[:, None])


def additive_search(searcher: str, seed: int, trials: int = 80) -> tuple[NDArray[np.float64], dict[int, list[float]]]:
    """The positions [trials, 6] and the curves of a search of 4 workers under ASHA, over a sum of linear terms."""
    spec = ExperimentSpec(
        name="additive",
        search_space=ADDITIVE,
        searcher={"kind": searcher, "num_samples": trials},
        max_epochs=27,
        seed=seed,
    )
    algorithm = spec.searcher.algorithm(
        SearchProblem(spec.search_space, 1, seed, spec.early_stopping.rungs(spec.max_epochs))
    )
    rule = spec.early_stopping.rule(Comparison(spec.objective.metric, 1, spec.max_epochs))
    random = np.random.default_rng(seed)
    slopes = np.sqrt(12 * np.array(list(PLANTED.values())))
    lows, widths = np.array([0.5, 0, 0, 0, 0, 0]), np.array([1, 0.9, 1, 90, 1, 1])
    positions, curves, running = np.zeros((trials, len(slopes))), dict[int, list[float]](), list[int]()
    while len(curves) < trials or running:
        while len(curves) < trials and len(running) < 4:
            number = len(curves)
            sample = algorithm.propose(number)
            assert sample is not None
            positions[number] = (np.array([sample[name] for name in PLANTED]) - lows) / widths
            curves[number] = []
            running.append(number)
        for number in list(running):
            curve = curves[number]
            epoch = len(curve) + 1
            final = float(slopes @ (positions[number] - 0.5))
            curve.append(final - 2 * np.exp(-epoch / 4) + 0.1 * random.normal())
            algorithm.report(number, epoch, curve[-1])
            finding = Finding.COMPLETED if epoch == spec.max_epochs else None
            if finding is None and rule.decide(number, epoch, curve[-1]).action is Action.STOP:
                finding = Finding.EARLY_STOPPED
            if finding is not None:
                algorithm.observe(TrialResult(number, finding, tuple(curve), max(curve)))
                running.remove(number)
    return positions, curves
