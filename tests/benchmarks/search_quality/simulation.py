"""A search in simulated time: asynchronous workers that train one epoch after the other at speeds of their own."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from search_spaces.spec import Spec

#: Standard deviation of the logarithm of the time that an epoch takes, by trial.
SPEED_SPREAD = 0.2
#: Trials of which the share that diverged is counted: a model has had time to learn where the edge is.
COUNTED = range(20, 60)


class Curves(Protocol):
    """A search space, and the learning curve of each of its configurations."""

    name: str
    epochs: int

    @property
    def space(self) -> Spec: ...

    @property
    def best(self) -> float:
        """The best value that is known."""

    @property
    def median(self) -> float:
        """Of the best value of a random configuration that trains all epochs."""

    def curve(self, configuration: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """Validation accuracy in 0..1 after each epoch, of shape (epochs,); NaN from the epoch in which it diverges."""

    def losses_of(self, configuration: Mapping[str, Any]) -> npt.NDArray[np.float32] | None:
        """Validation loss likewise; None where the task has none."""


class Method(Protocol):
    """What a search decides."""

    def suggest(self, number: int) -> Mapping[str, Any]:
        """The configuration of trial `number`."""

    def report(self, number: int, epoch: int, value: float, loss: float | None) -> bool:
        """The value of a trial after an epoch; NaN where it diverged. Returns whether the trial continues."""


@dataclass(frozen=True)
class Simulated:
    """`values` has the best value that the search had seen when it had used each budget, in full trainings.

    `diverged` is the share of the `COUNTED` trials that diverged, of those that were started; 0 if there were none.
    """

    values: dict[float, float]
    diverged: float


def simulate(
    method: Method, task: Curves, seed: int, workers: int, budgets: list[float], noise_images: int = 0
) -> Simulated:
    """A search until it has used the largest of `budgets`, in full trainings of `task.epochs` epochs.

    All workers are busy all the time, so a budget is a time. With `noise_images`, the method sees values as measured on
    so many images, and the true value of what looks best is returned.
    """
    generator = np.random.default_rng(seed)
    left = sorted(budgets)
    found: dict[float, float] = {}
    best_seen, best_true = -math.inf, 0.0
    running: list[tuple[float, int, int, float]] = []  # the end of its epoch, trial, epoch, seconds per epoch
    curves: dict[int, Any] = {}
    losses: dict[int, Any] = {}
    started, diverged = 0, set()

    def start(now: float) -> None:
        nonlocal started
        configuration = method.suggest(started)
        curves[started], losses[started] = task.curve(configuration), task.losses_of(configuration)
        pace = float(np.exp(generator.normal(0, SPEED_SPREAD)))
        heapq.heappush(running, (now + pace, started, 1, pace))
        started += 1

    for _ in range(workers):
        start(0.0)
    while left:
        now, trial, epoch, pace = heapq.heappop(running)
        while left and now * workers > left[0] * task.epochs:
            found[left.pop(0)] = best_true
        true = float(curves[trial][epoch - 1])
        if not math.isfinite(true):
            diverged.add(trial)
        measures = noise_images and math.isfinite(true)
        seen = generator.binomial(noise_images, true) / noise_images if measures else true
        if seen > best_seen:
            best_seen, best_true = seen, true
        loss = None if losses[trial] is None else float(losses[trial][epoch - 1])
        if method.report(trial, epoch, seen, loss):
            heapq.heappush(running, (now + pace, trial, epoch + 1, pace))
        else:
            start(now)
    counted = [trial for trial in COUNTED if trial < started]
    return Simulated(found, len(diverged.intersection(counted)) / max(len(counted), 1))
