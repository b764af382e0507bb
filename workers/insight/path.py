"""Path: what led from the defaults of a search space to its winner, as far as the trials tell.

Owns the model that rates configurations which no trial had, and the spec that trains them. It must not know files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.experiment import ExperimentSpec
from search_spaces.insight import Path, PathStep
from search_spaces.sampling import NOT_APPLICABLE, Sample, without_indices
from search_spaces.searched import searched_parameters
from search_spaces.searchers.gp.encoding import Encoding
from search_spaces.searchers.initial import DEFAULT, initial_sample
from workers.insight import importance
from workers.insight.ablation import Step, steps
from workers.insight.evidence import Evidence
from workers.insight.hyperparameters import analyzed

MOST_STEPS = 6  # that are shown and trained; those after them are made at once
REPETITIONS, TREES = 20, 10
LOW, HIGH = 0.1, 0.9  # ends of an interval, as shares of the repetitions
SEEDS = 2  # with which each configuration is trained again
SUFFIX = "-path"


def winning_path(evidence: Evidence) -> Path | None:
    """None where the importance is not known either, and where the winner has the defaults."""
    spec, (epoch, values) = evidence.spec, analyzed(evidence)
    if len(values) < importance.FEWEST_TRIALS or len(set(values.values())) == 1:
        return None
    start = initial_sample(spec.search_space, DEFAULT)
    model = Forests(evidence, values)
    made = list(steps(start, evidence.won.trial.sample, model.rate))
    if not made:
        return None
    sign = spec.objective.sign
    before, after = model.rate([start, evidence.won.trial.sample]).mean(axis=0)
    shown = made if len(made) <= MOST_STEPS else made[: MOST_STEPS - 1]
    rest = made[len(shown) :]
    samples = [start, *(step.sample for step in shown), *([rest[-1].sample] if rest else [])]
    return Path(
        epoch=epoch,
        start=sign * float(before),
        end=sign * float(after),
        steps=[*(_step([step]) for step in shown), *([_step(rest)] if rest else [])],
        spec=_training(spec, samples),
    )


def _step(made: Sequence[Step]) -> PathStep:
    gains = np.sum([step.gains for step in made], axis=0)
    low, high = np.quantile(gains, (LOW, HIGH))
    names = [without_indices(step.path) for step in made]
    return PathStep(names=names, gain=float(gains.mean()), low=float(low), high=float(high))


class Forests:
    """Random forests of trials that are drawn with replacement, one for each repetition, of their `values`."""

    def __init__(self, evidence: Evidence, values: dict[int, float]) -> None:
        from sklearn.ensemble import RandomForestRegressor

        self._encoding = Encoding(evidence.spec.search_space)
        random = np.random.default_rng(evidence.spec.seed)
        numbers = random.permutation(sorted(values))[: importance.MOST_TRIALS]
        vectors = self._vectors([evidence.every[number].sample for number in numbers])
        results = np.array([values[number] for number in numbers])
        self._forests = []
        for _ in range(REPETITIONS):
            drawn = random.integers(len(results), size=len(results))
            forest = RandomForestRegressor(TREES, max_features=1 / 2, random_state=int(random.integers(2**31)))
            self._forests.append(forest.fit(vectors[drawn], results[drawn]))

    def rate(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        """float64 [REPETITIONS, samples]."""
        vectors = self._vectors(samples)
        return np.array([forest.predict(vectors) for forest in self._forests])

    def _vectors(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        return np.stack([self._encoding.encode(sample) for sample in samples])


def _training(spec: ExperimentSpec, samples: Sequence[Sample]) -> dict[str, Any]:
    """The spec that trains all of these configurations for all epochs, each of them again with fresh seeds: a goal
    would end it at the first that reaches it."""
    names = searched_parameters(spec.search_space.model_dump(mode="json"))
    points = []
    for sample in samples:
        values = spec.parameters(spec.bind(sample, 0))
        points.append(
            {name: value for name in sorted(names) if (value := values.get(name)) not in {None, NOT_APPLICABLE}}
        )
    return spec.model_dump(mode="json") | {
        "name": f"{spec.name}{SUFFIX}",
        "searcher": {"kind": "random", "num_samples": len(points), "initial": points},
        "objective": spec.objective.model_dump(mode="json") | {"goal": None},
        "early_stopping": {"kind": "none"},
        "finalists": {"trials": len(points), "seeds": SEEDS},
    }
