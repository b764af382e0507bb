"""The tables of recorded learning curves: they can be read, are what Rung trained, and answer as they say."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from search_spaces.sampling import draw_from, resolve
from search_spaces.searchers.base import SearchProblem
from search_spaces.searchers.random import Random
from search_spaces.searchers.untried import draw_at_random
from tests.benchmarks.search_quality import recorded
from tests.benchmarks.search_quality.recorded import RecordedTask

#: Networks, and the accuracy of the best one: below it, something is wrong with the table.
EXPECTED = {"digits-cnn": (500, 0.98), "fashion-cnn": (100, 0.83)}


@pytest.fixture(scope="module", params=sorted(EXPECTED))
def task(request: pytest.FixtureRequest) -> RecordedTask:
    return RecordedTask(request.param)


def test_a_table_has_the_networks_that_it_should_have(task: RecordedTask) -> None:
    count, best = EXPECTED[task.name]
    assert task.accuracies.shape == task.losses.shape == (count, 20)
    assert task.best > best
    assert 0.1 < task.median < task.best
    known = ~np.isnan(task.accuracies)
    assert (known == ~np.isnan(task.losses)).all()
    assert (known[:, 1:] <= known[:, :-1]).all(), "a network that diverged has no later epochs"
    assert ((task.accuracies[known] >= 0) & (task.accuracies[known] <= 1)).all()


def test_the_networks_are_those_of_a_random_search_of_rung(task: RecordedTask) -> None:
    algorithm = Random(num_samples=500).algorithm(SearchProblem(task.space, 1, 0))
    proposed = [algorithm.propose(number) for number in range(len(task.samples))]
    assert proposed == [pytest.approx(sample) for sample in task.samples]


def test_a_recorded_configuration_has_its_own_curve(task: RecordedTask) -> None:
    """Or that of one which no tree tells from it."""
    positions = random.Random(0).sample(range(len(task.samples)), 20)
    assert sum(task.nearest(task.configurations[position]) == position for position in positions) >= 18
    first = task.configurations[0]
    assert np.array_equal(task.curve(first), task.accuracies[task.nearest(first)], equal_nan=True)


def test_any_configuration_has_a_curve_and_a_loss(task: RecordedTask) -> None:
    generator = random.Random(0)
    curves: set[Any] = set()
    for _ in range(30):
        configuration = resolve(task.space, draw_from(draw_at_random(task.space, generator)))
        curve, losses = task.curve(configuration), task.losses_of(configuration)
        assert losses is not None
        assert (np.isnan(curve) == np.isnan(losses)).all()
        curves.add(tuple(one for one in curve.tolist() if math.isfinite(one)))
    assert len(curves) > 10


def test_the_mean_of_similar_networks_changes_near_a_network_and_is_like_its_own_curve() -> None:
    task, mean = RecordedTask("digits-cnn"), recorded.recorded_task("digits-cnn-mean")
    curves = np.stack([mean.curve(one) for one in task.configurations[:40]])
    assert np.corrcoef(curves.max(axis=1), np.nan_to_num(task.accuracies[:40]).max(axis=1))[0, 1] > 0.8
    near = [one["model"] | {"dropout": one["model"]["dropout"] * 0.8} for one in task.configurations[:40]]
    moved = [{**one, "model": model} for one, model in zip(task.configurations, near, strict=False)]
    same = [np.array_equal(mean.curve(one), curve) for one, curve in zip(moved, curves, strict=True)]
    assert sum(same) < 20
    assert 0.1 < mean.median < mean.best < task.best


def test_the_tables_of_the_package_are_the_ones_tested() -> None:
    assert recorded.names() == [*sorted(EXPECTED), *(f"{name}-mean" for name in sorted(EXPECTED))]
