"""GP search: proposes where a Gaussian process expects the largest improvement after the last epoch.

The process is of the values of all rungs at once: the many values of the first rungs say where a good trial lies, and
the few of the last ones correct it (as in MOBSTER: Klein et al., 2020). The size of the process is bounded; to choose
the values that it is of takes time in proportion to the number of trials. Owns what the model learns of each trial, and
the choice among candidates. It must not know how a domain is encoded, nor the algebra of the process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from threadpoolctl import ThreadpoolController

from search_spaces.sampling import Sample
from search_spaces.searchers.base import Finding, SearchProblem, TrialResult, proposal_seed
from search_spaces.searchers.gp.divergence import Divergence
from search_spaces.searchers.gp.encoding import Encoding
from search_spaces.searchers.gp.process import GaussianProcess, fit

#: Values that the process predicts from, and those among them that its hyperparameters are fitted to.
MODELED, FITTED = 200, 80
PENDING = 100  # trials without a value that are taken into account, the newest ones
RANDOM_CANDIDATES = 400
CENTERS = 5  # best points near which candidates are drawn
#: Candidates near each center, and how far from it; then near the best candidates, twice.
NEAR, NEAR_SHARE, NEAR_DEVIATION = 50, 0.5, 0.1
REFINED, REFINED_CENTERS, REFINED_SHARE, REFINED_DEVIATIONS = 25, 4, 0.6, (0.05, 0.02)
#: Values worse than the median by this many times the distance to the 95th percentile count as that bad: how bad a
#: useless trial is says nothing about good ones.
CLIPPED = 2.0
TOP = 1.0  # the level after the last epoch; the first rung is 0
SMALLEST = 1e-9  # difference of two values that is taken for one, as a share of the largest value
LARGEST = 1e300  # of a value: the differences of larger ones are no numbers


@dataclass(frozen=True)
class Observation:
    """The value of a trial at a level (its index), without what trials gain on average up to there."""

    trial: int
    level: int
    value: float


class GPSearch:
    """Random until `startup_trials` trials have a value; then the candidate of the largest expected improvement."""

    def __init__(
        self, problem: SearchProblem, startup_trials: int, ordered: bool = True, avoid_divergence: bool = True
    ) -> None:
        self._problem = problem
        self._startup_trials = startup_trials
        self._encoding = Encoding(problem.search_space, ordered)
        self._divergence = Divergence(self._encoding.groups) if avoid_divergence else None
        self._indices = {epoch: index for index, epoch in enumerate(problem.rungs)}
        self._end = len(problem.rungs)  # the index of the level of completed trials, with their best value
        self._samples: dict[int, Sample] = {}
        self._vectors: dict[int, NDArray[np.float64]] = {}
        self._values: list[dict[int, float]] = [{} for _ in range(self._end + 1)]  # larger is better
        self._known: set[int] = set()  # trials with a value
        self._taken: set[bytes] = set()  # the vectors of all samples
        self._ended: dict[int, Finding] = {}
        self._threads = ThreadpoolController()

    def learned(self) -> bool:
        return len(self._known) >= self._startup_trials

    def draw(self, number: int, attempt: int) -> dict[str, float]:
        generator = np.random.default_rng(proposal_seed(self._problem.seed, number, attempt, size=8))
        if not self.learned():
            return self._encoding.draw(generator)
        with self._threads.limit(limits=1):  # several threads take longer for matrices of this size
            return self._best(generator)

    def replay(self, number: int, sample: Sample) -> None:
        self._samples[number] = sample
        self._vectors[number] = self._encoding.encode(sample)
        self._taken.add(self._vectors[number].tobytes())
        if self._divergence is not None:
            self._divergence.replay(number, self._vectors[number])

    def report(self, number: int, epoch: int, value: float) -> None:
        if epoch in self._indices and number in self._samples and math.isfinite(value):
            self._record(self._indices[epoch], number, value)
        if self._divergence is not None:
            self._divergence.report(number, epoch, value)

    def observe(self, result: TrialResult) -> None:
        if self._divergence is not None:
            self._divergence.observe(result)
        if result.number not in self._samples:
            return
        self._ended[result.number] = result.finding
        if result.finding is Finding.COMPLETED and result.best_value is not None and math.isfinite(result.best_value):
            self._record(self._end, result.number, result.best_value)

    def _record(self, level: int, number: int, value: float) -> None:
        self._known.add(number)
        self._values[level][number] = self._problem.sign * min(max(value, -LARGEST), LARGEST)

    def _best(self, generator: np.random.Generator) -> dict[str, float]:
        """The candidate of the largest expected improvement over the best point that is known."""
        observations = _bounded(list(self._observations()), generator)
        points = np.stack([self._vectors[one.trial] for one in observations])
        levels = (
            np.array([one.level / max(self._end, 1) for one in observations]) if self._end else np.ones(len(points))
        )
        values = _standardized(np.array([one.value for one in observations]))
        chosen = generator.permutation(len(values))[:FITTED]
        hyperparameters = fit(points[chosen], levels[chosen], values[chosen], self._encoding.groups)
        process = GaussianProcess(points, levels, values, hyperparameters)
        pending = sorted(self._samples.keys() - self._known - self._ended.keys())
        if pending:
            vectors = np.stack([self._vectors[number] for number in pending[-PENDING:]])
            process = process.believing(vectors, 0.0 if self._end else TOP)
        trials = sorted({one.trial for one in observations})
        means, _ = process.predict(np.stack([self._vectors[number] for number in trials]), TOP)
        centers = [self._samples[trials[index]] for index in np.argsort(-means, kind="stable")[:CENTERS]]
        return self._maximize(process, float(means.max()), centers, generator)

    def _maximize(
        self, process: GaussianProcess, best: float, centers: list[Sample], generator: np.random.Generator
    ) -> dict[str, float]:
        encoding = self._encoding
        outcomes = self._divergence.fitted() if self._divergence is not None else None
        near = np.repeat([encoding.row(one) for one in centers], NEAR, axis=0)
        near = encoding.near(near, NEAR_DEVIATION, NEAR_SHARE, generator)
        candidates = np.concatenate([encoding.draws(RANDOM_CANDIDATES, generator), near])
        chosen = candidates[:1]
        for deviation in (*REFINED_DEVIATIONS, None):
            vectors = encoding.vectors(candidates)
            new = [index for index, vector in enumerate(vectors) if vector.tobytes() not in self._taken]
            if not new:
                break  # few are left of a small space: a trial is repeated
            points = vectors[new]
            scores = log_expected_improvement(*process.predict(points, TOP), best)
            if outcomes is not None:  # no improvement is expected of a network that diverges (Gardner et al., 2014)
                scores += np.log1p(-outcomes.probability(points))
            chosen = candidates[new][np.argsort(-scores, kind="stable")[:REFINED_CENTERS]]
            if deviation is not None:
                near = encoding.near(np.repeat(chosen, REFINED, axis=0), deviation, REFINED_SHARE, generator)
                candidates = np.concatenate([chosen, near])
        return encoding.sample(chosen[0])

    def _observations(self) -> Iterator[Observation]:
        """All values, those of the highest level first. A trial that diverged has the worst value at its next level."""
        gains = self._gains()
        worst = min(value - gains[level] for level, values in enumerate(self._values) for value in values.values())
        for level in reversed(range(len(self._values))):
            for trial in sorted(self._values[level]):
                yield Observation(trial, level, self._values[level][trial] - gains[level])
        for trial in sorted(self._ended):
            if self._ended[trial] is Finding.DIVERGED:
                reached = [level for level, values in enumerate(self._values) if trial in values]
                yield Observation(trial, min(max(reached, default=-1) + 1, self._end), worst)

    def _gains(self) -> list[float]:
        """By level, what trials gain from the first level to it: medians of those that have reached both of two."""
        gains = [0.0]
        for below, above in zip(self._values, self._values[1:], strict=False):
            steps = [above[trial] - below[trial] for trial in above if trial in below]
            gains.append(gains[-1] + (float(np.median(steps)) if steps else 0.0))
        return gains


def log_expected_improvement(
    means: NDArray[np.float64], deviations: NDArray[np.float64], best: float
) -> NDArray[np.float64]:
    """The logarithm of E[max(value - best, 0)] of normal values (Jones et al., 1998), float64 [N].

    Far below the best it is the first term of its expansion, which still tells candidates apart.
    """
    distance = (means - best) / deviations
    density = np.exp(-(distance**2) / 2) / math.sqrt(2 * math.pi)
    near = np.log(np.maximum(distance * ndtr(distance) + density, np.finfo(np.float64).tiny))
    far = -(distance**2) / 2 - 2 * np.log(np.maximum(-distance, 1.0)) - 0.5 * math.log(2 * math.pi)
    scores: NDArray[np.float64] = np.log(deviations) + np.where(distance > -5, near, far)
    return scores


def _bounded(observations: list[Observation], generator: np.random.Generator) -> list[Observation]:
    """At most MODELED: two thirds from the higher levels, and of the first the best ones and some of the others."""
    if len(observations) <= MODELED:
        return observations
    above = sorted((one for one in observations if one.level), key=lambda one: (-one.level, -one.value, one.trial))
    first = sorted((one for one in observations if not one.level), key=lambda one: (-one.value, one.trial))
    above = above[: max(MODELED * 2 // 3, MODELED - len(first))]
    left = MODELED - len(above)
    best, others = first[: left // 2], first[left // 2 :]
    return above + best + [others[index] for index in generator.permutation(len(others))[: left - len(best)]]


def _standardized(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of mean 0 and variance 1, without how bad the worst are."""
    values = values / max(float(np.abs(values).max()), np.finfo(np.float64).tiny)
    middle, high = np.quantile(values, [0.5, 0.95])
    clipped = np.maximum(values, middle - CLIPPED * max(high - middle, SMALLEST))
    standardized: NDArray[np.float64] = (clipped - clipped.mean()) / max(float(clipped.std()), SMALLEST)
    return standardized
