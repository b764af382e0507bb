"""A search in simulated time: asynchronous workers that train one epoch after the other at speeds of their own."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from search_spaces.spec import Spec
from tests.benchmarks.search_quality.lcbench import EPOCHS

#: Standard deviation of the logarithm of the time that an epoch takes, by trial.
SPEED_SPREAD = 0.2


class Curves(Protocol):
    """A search space, and the learning curve of each of its configurations."""

    name: str

    @property
    def space(self) -> Spec: ...

    @property
    def best(self) -> float:
        """The best value that is known."""

    @property
    def median(self) -> float:
        """Of the best value of a random configuration that trains all epochs."""

    def curve(self, configuration: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """Validation accuracy in 0..1 after each epoch, of shape (EPOCHS,)."""


class Method(Protocol):
    """What a search decides."""

    def suggest(self, number: int) -> Mapping[str, Any]:
        """The configuration of trial `number`."""

    def report(self, number: int, epoch: int, value: float) -> bool:
        """The value of a trial after an epoch; NaN where it diverged. Returns whether the trial continues."""


def incumbents(
    method: Method, task: Curves, seed: int, workers: int, budgets: list[float], noise_images: int = 0
) -> dict[float, float]:
    """The best value that the search has seen when it has used each budget, in full trainings of `EPOCHS` epochs.

    All workers are busy all the time, so a budget is a time. With `noise_images`, the method sees values as measured on
    so many images, and the true value of what looks best is returned.
    """
    generator = np.random.default_rng(seed)
    left = sorted(budgets)
    found: dict[float, float] = {}
    best_seen = best_true = -math.inf
    running: list[tuple[float, int, int, float]] = []  # the end of its epoch, trial, epoch, seconds per epoch
    curves: dict[int, Any] = {}
    started = 0

    def start(now: float) -> None:
        nonlocal started
        curves[started] = task.curve(method.suggest(started))
        pace = float(np.exp(generator.normal(0, SPEED_SPREAD)))
        heapq.heappush(running, (now + pace, started, 1, pace))
        started += 1

    for _ in range(workers):
        start(0.0)
    while left:
        now, trial, epoch, pace = heapq.heappop(running)
        while left and now * workers > left[0] * EPOCHS:
            found[left.pop(0)] = best_true
        true = float(curves[trial][epoch - 1])
        seen = generator.binomial(noise_images, true) / noise_images if noise_images else true
        if seen > best_seen:
            best_seen, best_true = seen, true
        if method.report(trial, epoch, seen):
            heapq.heappush(running, (now + pace, trial, epoch + 1, pace))
        else:
            start(now)
    return found
