"""The CPU time that a searcher takes for a proposal, after few trials and after many.

Run: python -m pytest tests/benchmarks/test_proposals.py --override-ini addopts=--import-mode=importlib -s

The space is that of the table digits-cnn: 26 domains with choices and conditions. One trial in ten has diverged, so
that models avoid these too; one in three passed the first rung.
"""

from __future__ import annotations

import math
import random
import time
from typing import Any

import pytest

from search_spaces.searchers.base import Finding, SearchProblem, TrialResult
from search_spaces.searchers.gp import GP
from search_spaces.searchers.random import Random
from search_spaces.searchers.tpe import TPE
from search_spaces.searchers.untried import draw_at_random
from tests.benchmarks.search_quality.recorded import RecordedTask

#: Trials before the proposal -> seconds that it may take.
LIMITS = {200: 0.050, 5_000: 0.250}
REPEATED = 5


@pytest.mark.parametrize("trials", LIMITS)
@pytest.mark.parametrize("searcher", [Random, TPE, GP])
def test_a_proposal_takes_little_time(searcher: Any, trials: int) -> None:
    space, generator = RecordedTask("digits-cnn").space, random.Random(0)
    algorithm = searcher(num_samples=100_000).algorithm(SearchProblem(space, 1, 0, (1, 3, 9)))
    for number in range(trials):
        algorithm.replay(number, draw_at_random(space, generator))
        value = generator.random()
        curve = (math.nan,) if number % 10 == 0 else (value,) * (3 if number % 3 == 0 else 1)
        for epoch, one in enumerate(curve, start=1):
            algorithm.report(number, epoch, one)
        finding = Finding.EARLY_STOPPED if math.isfinite(curve[0]) else Finding.DIVERGED
        algorithm.observe(TrialResult(number, finding, curve, None if finding is Finding.DIVERGED else value))
    algorithm.propose(trials)  # what is done once, such as imports
    spent = []
    for number in range(trials + 1, trials + 1 + REPEATED):
        began = time.process_time()
        algorithm.propose(number)
        spent.append(time.process_time() - began)
    print(f"\n{searcher.__name__} after {trials} trials: {1000 * sorted(spent)[REPEATED // 2]:.0f} ms")
    assert sorted(spent)[REPEATED // 2] <= LIMITS[trials]
