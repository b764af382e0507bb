"""Avoiding: draws again what would probably diverge, with any model that only draws.

Owns how often a sample is drawn again. It must not know how the model draws, nor how divergence is predicted.
"""

from __future__ import annotations

from search_spaces.sampling import Sample
from search_spaces.searchers.base import SearchProblem, TrialResult
from search_spaces.searchers.drawn import Model

#: Samples that are drawn until one diverges with at most the probability TOLERATED.
DRAWS, TOLERATED = 5, 0.25


class Avoiding:
    """A model whose samples are drawn again while they would probably diverge."""

    def __init__(self, problem: SearchProblem, model: Model) -> None:
        from search_spaces.searchers.gp.divergence import Divergence
        from search_spaces.searchers.gp.encoding import Encoding

        self._model = model
        self._encoding = Encoding(problem.search_space)
        self._divergence = Divergence(self._encoding.groups)

    def learned(self) -> bool:
        return self._model.learned()

    def draw(self, number: int, attempt: int) -> dict[str, float]:
        """Of the samples of some attempts the first that is tolerated, otherwise the one most probably to train."""
        outcomes = self._divergence.fitted() if self._model.learned() else None
        if outcomes is None:
            return self._model.draw(number, attempt)
        drawn: list[tuple[float, int]] = []
        for one in range(attempt * DRAWS, (attempt + 1) * DRAWS):
            sample = self._model.draw(number, one)
            probability = float(outcomes.probability(self._encoding.encode(sample)[None])[0])
            if probability <= TOLERATED:
                return sample
            drawn.append((probability, one))
        return self._model.draw(number, min(drawn)[1])

    def replay(self, number: int, sample: Sample) -> None:
        self._model.replay(number, sample)
        self._divergence.replay(number, self._encoding.encode(sample))

    def report(self, number: int, epoch: int, value: float) -> None:
        self._model.report(number, epoch, value)
        self._divergence.report(number, epoch, value)

    def observe(self, result: TrialResult) -> None:
        self._model.observe(result)
        self._divergence.observe(result)
