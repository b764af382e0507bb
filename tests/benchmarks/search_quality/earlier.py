"""Earlier experiments of a simulated search, for a warm start: useful ones, and misleading ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from search_spaces.sampling import draw_from, flatten, resolve
from search_spaces.searchers.initial import MAX_KNOWN
from search_spaces.searchers.untried import draw_at_random
from tests.benchmarks.search_quality.recorded import RecordedTask
from tests.benchmarks.search_quality.simulation import Curves

#: Configurations that the earlier experiment trained in full.
TRIALS = 30
#: The other table of a task with a table.
OTHERS = {"digits-cnn": "fashion-cnn", "fashion-cnn": "digits-cnn"}
Rated = list[tuple[float, Mapping[str, Any]]]
Choose = Callable[[Curves, random.Random], Rated]


def configurations(task: Curves, seed: int, choose: Choose) -> Sequence[Mapping[str, Any]]:
    """What a search knows that follows an earlier one: the configurations with the best values there."""
    rated = sorted(choose(task, random.Random(f"{seed}/earlier")), key=lambda one: -one[0])
    return [flatten(configuration) for _, configuration in rated[:MAX_KNOWN]]


def best(task: Curves, generator: random.Random) -> Rated:
    """Values of the same task."""
    drawn = [resolve(task.space, draw_from(draw_at_random(task.space, generator))) for _ in range(TRIALS)]
    return [(max((float(one) for one in task.curve(given) if one == one), default=0.0), given) for given in drawn]


def worst(task: Curves, generator: random.Random) -> Rated:
    """What was bad in the earlier experiment is good in this one, and the other way round."""
    return [(-value, configuration) for value, configuration in best(task, generator)]


def permuted(task: Curves, generator: random.Random) -> Rated:
    """The earlier experiment says nothing about this one."""
    rated = best(task, generator)
    values = [value for value, _ in rated]
    generator.shuffle(values)
    return list(zip(values, (configuration for _, configuration in rated), strict=True))


def of_another_task(task: Curves, generator: random.Random) -> Rated:
    """Of another data set, with a search space that differs in some domains."""
    other = RecordedTask(OTHERS[task.name])
    return best(other, generator)
