"""Interleaved: every second sample as in a random search, with any model that only draws.

Where a model is misled, such as by an alternative that looks good first, half of the trials still look elsewhere. It
must not know how the model draws.
"""

from __future__ import annotations

from search_spaces.sampling import Sample
from search_spaces.searchers.base import SearchProblem, TrialResult
from search_spaces.searchers.drawn import Model
from search_spaces.searchers.startup import SobolStartup


class Interleaved:
    """A model whose trials of even numbers have the samples of the Sobol sequence, as before it had learned."""

    def __init__(self, problem: SearchProblem, model: Model) -> None:
        self._model = model
        self._sequence = SobolStartup(problem)

    def learned(self) -> bool:
        return self._model.learned()

    def draw(self, number: int, attempt: int) -> dict[str, float]:
        """A sample of the sequence that was tried already is replaced by one of the model."""
        if attempt == 0 and number % 2 == 0 and self._model.learned():
            return self._sequence.draw(number)
        return self._model.draw(number, attempt)

    def replay(self, number: int, sample: Sample) -> None:
        self._model.replay(number, sample)

    def report(self, number: int, epoch: int, value: float) -> None:
        self._model.report(number, epoch, value)

    def observe(self, result: TrialResult) -> None:
        self._model.observe(result)
