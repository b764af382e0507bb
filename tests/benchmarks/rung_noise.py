"""Which cut at a rung finds the best trial when accuracy is measured on few images (docs/decisions/0027).

Run: python -m tests.benchmarks.rung_noise [SEARCHES], about a second for each search of all kinds.

Learning curves of 20 epochs are planted. What a search sees of them is measured on 216 images: some are harder than
others for all trials, some for one trial in all epochs, and the rest is chance. Random search, 4 asynchronous workers.
The regret of a search is that of the true accuracy where the measured one was best: 0 for the best of all epochs of
300 trials, 1 for the last epoch of the median trial. Each cut is compared with the old one on the same curves.
"""

from __future__ import annotations

import heapq
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from search_spaces.early_stopping.asha import Asha
from search_spaces.early_stopping.base import Action, Comparison, StoppingRule

EPOCHS, IMAGES, TRIALS, WORKERS, CLASSES = 20, 216, 300, 4, 10
#: In full trainings, and the number of trials of a search that has no other limit.
BUDGET, FIXED = 20, 40
#: Of the variance of what decides on an image: common to all trials, to one trial, to one epoch.
COMMON, OF_TRIAL, OF_EPOCH = 0.5, 0.3, 0.2
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """By trial and epoch: true and measured accuracy, and validation loss. `pace`: time of an epoch, by trial."""

    true: Array
    seen: Array
    loss: Array
    pace: Array


@dataclass(frozen=True)
class Kind:
    """True accuracies at the end lie between `low` and `high`, most of them near `low` if `skew` is large.

    `crossing`: whether a trial's speed tells nothing of its end. `unsteady`: standard deviation from epoch to epoch.
    """

    low: float
    high: float
    skew: float = 2.0
    crossing: bool = False
    unsteady: float = 0.004

    def draw(self, random: np.random.Generator) -> Curves:
        rank = random.beta(1.5, self.skew, TRIALS)
        end = self.high - (self.high - self.low) * (1 - rank)
        slowness = np.exp(random.normal(math.log(2.2), 0.5, TRIALS) + (0 if self.crossing else 0.8 * (0.5 - rank)))
        left = np.exp(-((np.arange(1, EPOCHS + 1)[None] / slowness[:, None]) ** 0.7))
        true = end[:, None] - (end[:, None] - 1 / CLASSES) * left
        true = np.clip(true + self.unsteady * random.normal(0, 1, true.shape) * (1 + 4 * left), 0.01, 0.999)
        seen = _measured(true, random)
        scale, offset = np.exp(random.normal(0, 0.15, TRIALS)), random.uniform(0, 0.1, TRIALS)
        loss = scale[:, None] * 3.2 * (1 - 0.5 * true - 0.5 * seen) * np.exp(random.normal(0, 0.08, true.shape))
        return Curves(true, seen, loss + offset[:, None], np.exp(random.normal(0, 0.2, TRIALS)))


class StartAtChance(Kind):
    """The accuracy of a trial is that of guessing for up to 7 epochs, longer for poor ones, while its loss falls."""

    def draw(self, random: np.random.Generator) -> Curves:
        curves = super().draw(random)
        end = curves.true[:, -1]
        wait = random.integers(0, 5, TRIALS) + np.where(end < np.median(end), random.integers(0, 4, TRIALS), 0)
        for trial, epochs in enumerate(wait):
            for values, guessed in (
                (curves.true, 1 / CLASSES),
                (curves.seen, round(IMAGES / CLASSES) / IMAGES),
                (curves.loss, 2.35 + 0.1 * np.arange(epochs, 0, -1) + random.normal(0, 0.05, epochs)),
            ):
                values[trial, epochs:] = values[trial, : EPOCHS - epochs].copy()
                values[trial, :epochs] = guessed
        return curves


def _measured(true: Array, random: np.random.Generator) -> Array:
    hard, for_trial = random.normal(size=IMAGES), random.normal(size=(TRIALS, IMAGES))
    seen = np.empty_like(true)
    for epoch in range(EPOCHS):
        by_chance = random.normal(size=(TRIALS, IMAGES))
        difficulty = math.sqrt(COMMON) * hard + math.sqrt(OF_TRIAL) * for_trial + math.sqrt(OF_EPOCH) * by_chance
        seen[:, epoch] = (difficulty < ndtri(true[:, epoch, None])).mean(1)
    return seen


class Allowance:
    """The cut of ASHA less a number of binomial standard errors: what was measured and not built."""

    def __init__(self, grace: int, errors: float) -> None:
        rungs = Asha(grace_period=grace).rungs(EPOCHS)
        self._errors = errors
        self._reached: dict[int, list[float]] = {rung: [] for rung in rungs}

    def stops(self, trial: int, epoch: int, value: float, loss: float) -> bool:
        before = self._reached.get(epoch)
        if before is None:
            return False
        cutoff = float(np.percentile(before, 100 * (1 - 1 / 3))) if before else -math.inf
        before.append(value)
        share = min(max(cutoff, 1 / IMAGES), 1 - 1 / IMAGES)
        return value < cutoff - self._errors * math.sqrt(share * (1 - share) / IMAGES)


class Ours:
    """ASHA as Rung has it."""

    def __init__(self, rule: StoppingRule) -> None:
        self._rule = rule

    def stops(self, trial: int, epoch: int, value: float, loss: float) -> bool:
        return self._rule.decide(trial, epoch, value, loss).action is Action.STOP


Cut = Ours | Allowance


def ours(**fields: float | str) -> Callable[[int], Cut]:
    comparison = Comparison("validation_accuracy", 1, EPOCHS)
    return lambda grace: Ours(Asha.model_validate({"grace_period": grace, **fields}).rule(comparison))


def allowance(errors: float) -> Callable[[int], Cut]:
    return lambda grace: Allowance(grace, errors)


OLD = "as in 0.1"
CUTS: dict[str, Callable[[int], Cut]] = {
    OLD: ours(ties="continue"),
    "ties by loss": ours(),
    "and mean of 1/4": ours(smoothing=0.25),
    "half an error": allowance(0.5),
    "one error": allowance(1),
}
KINDS: dict[str, Kind] = {
    "easy": Kind(0.9, 0.995),
    "saturated": Kind(0.975, 0.999),
    "medium": Kind(0.5, 0.95),
    "hard": Kind(0.1, 0.7, skew=4),
    "crossing": Kind(0.85, 0.99, crossing=True),
    "unsteady": Kind(0.85, 0.99, unsteady=0.015),
    "start at chance": StartAtChance(0.5, 0.95),
}


def search(curves: Curves, cut: Cut, trials: int, trainings: float) -> tuple[float, float]:
    """The true accuracy of what was measured as best, and the number of full trainings that it cost."""
    running = [(curves.pace[trial], trial, 0) for trial in range(WORKERS)]
    heapq.heapify(running)
    started, epochs, best = WORKERS, 0, (-1.0, 0.0)
    while running:
        now, trial, epoch = heapq.heappop(running)
        if now * WORKERS > trainings * EPOCHS:
            break
        epochs += 1
        seen, loss = float(curves.seen[trial, epoch]), float(curves.loss[trial, epoch])
        best = max(best, (seen, float(curves.true[trial, epoch])), key=lambda pair: pair[0])
        if epoch + 1 == EPOCHS or cut.stops(trial, epoch + 1, seen, loss):
            if started < trials:
                heapq.heappush(running, (now + curves.pace[started], started, 0))
                started += 1
        else:
            heapq.heappush(running, (now + curves.pace[trial], trial, epoch + 1))
    return best[1], epochs / EPOCHS


def regret(curves: Curves, found: float, trials: int = TRIALS) -> float:
    best, median = curves.true[:trials].max(), np.median(curves.true[:trials, -1])
    return float((best - found) / (best - median))


def main(searches: int) -> None:
    print(f"difference to {OLD}: regret at {BUDGET} trainings | of {FIXED} trials: regret, trainings")
    for grace in (1, 3):
        over_kinds: dict[str, list[Array]] = {name: [] for name in CUTS}
        for kind, plan in KINDS.items():
            rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in CUTS}
            for seed in range(searches):
                curves = plan.draw(np.random.default_rng(seed))
                for name, cut in CUTS.items():
                    at_budget, _ = search(curves, cut(grace), TRIALS, BUDGET)
                    fixed, cost = search(curves, cut(grace), FIXED, math.inf)
                    rows[name].append((regret(curves, at_budget), regret(curves, fixed, FIXED), cost))
            for name in CUTS:
                over_kinds[name].append(np.array(rows[name]) - np.array(rows[OLD]))
                show(f"grace {grace}, {kind}: {name}", over_kinds[name][-1])
        for name, differences in over_kinds.items():
            show(f"grace {grace}, mean of all kinds: {name}", np.mean(differences, axis=0))


def show(what: str, differences: Array) -> None:
    means, errors = differences.mean(0), differences.std(0) / math.sqrt(len(differences))
    values = [f"{mean:+.4f} +- {error:.4f}" for mean, error in zip(means, errors, strict=True)]
    print(f"{what:50} {values[0]} | {values[1]}, {values[2]}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
