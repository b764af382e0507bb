"""Drawn: what searchers have in common that draw each sample, unlike a grid.

Owns their common fields, the order in which initial configurations, startup and model have their turn, and that no
configuration is proposed twice. A searcher adds a model, which draws. It must not know any model by name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Protocol

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from search_spaces.problems import Problem
from search_spaces.sampling import Sample, domains
from search_spaces.searchers.base import NumSamples, SearchAlgorithm, SearcherSpec, SearchProblem, TrialResult
from search_spaces.searchers.initial import InitialPoint, initial_problems, initial_sample, known_sample
from search_spaces.searchers.startup import SobolStartup
from search_spaces.searchers.untried import Untried
from search_spaces.spec import Spec

#: Proposals of a model that may be equal to earlier trials before one is drawn at random: each takes its full time.
ATTEMPTS = 5
#: Each is placed in the search space whenever a spec is checked.
MAX_INITIAL = 100
MAX_EARLIER = 10  # experiments whose journals are read before a search begins
PROJECT = "project"

ChoicesOfNumbers = Annotated[
    Literal["ordered", "unordered"],
    Field(
        description="Whether the model knows that the numbers of a choice have an order, so that neighbors are "
        "similar. ordered: it does, for three numbers or more; experiments of version 0.1 continue with unordered."
    ),
]


AvoidDivergence = Annotated[
    bool,
    Field(
        strict=True,
        description="Whether the model also learns with which hyperparameters networks diverge, and avoids these. "
        "Experiments of version 0.1 continue with false.",
    ),
]


def _earlier(value: Any) -> str | tuple[str, ...]:
    if value == PROJECT:
        return PROJECT
    if isinstance(value, list | tuple) and len(value) <= MAX_EARLIER and all(isinstance(one, str) for one in value):
        return tuple(dict.fromkeys(value))
    rule = "must be {project}, or a list of at most {most} ids of experiments"
    raise PydanticCustomError("warm_start", rule, {"project": PROJECT, "most": MAX_EARLIER})


#: `project`, or a tuple of ids.
WarmStart = Annotated[
    Any,
    BeforeValidator(_earlier),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": PROJECT, "type": "string"},
                {"type": "array", "items": {"type": "string"}, "maxItems": MAX_EARLIER},
            ]
        }
    ),
    Field(
        description="Earlier experiments of the same project whose best configurations are tried first, after those of "
        "`initial`: a list of at most 10 ids, or `project` for the 10 newest that have ended or are paused when this "
        "one starts. Five configurations are taken, the best of each experiment before the second best of any; what "
        "does not fit the search space is left out of them. They count as samples. What was taken is in the journal, "
        "so that a restart takes the same."
    ),
]


class Model(Protocol):
    """Draws samples, and learns from the trials as a `SearchAlgorithm` does."""

    def learned(self) -> bool:
        """Whether it draws by what it knows of the trials. Before that, its samples are random."""

    def draw(self, number: int, attempt: int) -> dict[str, float]:
        """A sample for trial `number`, another one for each `attempt` (from 0). It counts once it is replayed."""

    def replay(self, number: int, sample: Sample) -> None:
        """As `SearchAlgorithm.replay`."""

    def report(self, number: int, epoch: int, value: float) -> None:
        """As `SearchAlgorithm.report`."""

    def observe(self, result: TrialResult) -> None:
        """As `SearchAlgorithm.observe`."""


class DrawnSearcherSpec(SearcherSpec):
    """The base of all searchers that draw samples."""

    num_samples: NumSamples = 20
    repeat_configurations: Annotated[bool, Field(strict=True)] = Field(
        False,
        description="Whether a configuration may be tried more than once, with another seed each time. If not, the "
        "search ends when each configuration of a finite search space was tried. A search space without domains is "
        "always repeated. Experiments of version 0.1 continue with true.",
    )

    initial: tuple[InitialPoint, ...] = Field(
        (),
        max_length=MAX_INITIAL,
        description="Configurations that are tried first, in this order: each is `default`, or values of "
        "hyperparameters, as `{optimizer: {kind: sgd, lr: 0.1}}` or `{optimizer.lr: 0.1}`. A hyperparameter that is "
        "left out has its default, or the value of its domain that is nearest to it. At most 100; they count as "
        "samples.",
    )
    startup: Literal["sobol", "random"] = Field(
        "sobol",
        description="How samples are drawn while there is no model, which in a random search is always. sobol: from a "
        "Sobol sequence, which fills the search space more evenly. Experiments of version 0.1 continue with random.",
    )

    warm_start: WarmStart = ()

    def trial_count(self, search_space: Spec) -> int:
        return self.num_samples

    def problems(self, search_space: Spec) -> Iterator[Problem]:
        for index, point in enumerate(self.initial):
            yield from initial_problems(search_space, point, f"searcher.initial[{index}]")

    def warnings(self, search_space: Spec) -> Iterator[Problem]:
        if len(self.initial) > self.num_samples:
            rule = f"should be at least {len(self.initial)}, the number of initial configurations"
            yield Problem("searcher.num_samples", rule, self.num_samples)
        # Only several can be equal: one is placed once, by `problems`.
        samples = [initial_sample(search_space, point) for point in self.initial] if len(self.initial) > 1 else []
        for index, sample in enumerate(samples):
            if (first := samples.index(sample)) < index:
                rule = f"should differ from searcher.initial[{first}], because no initial configuration is tried twice"
                yield Problem(f"searcher.initial[{index}]", rule, self.initial[index])

    def repeats(self, search_space: Spec) -> bool:
        """Whether a configuration may be proposed again."""
        return self.repeat_configurations or not any(True for _ in domains(search_space))

    @abstractmethod
    def model(self, problem: SearchProblem) -> Model:
        """A new model that knows no trials."""

    def algorithm(self, problem: SearchProblem) -> SearchAlgorithm:
        return DrawnSearch(problem, self, self.model(problem))


class DrawnSearch:
    """The initial configurations, then the samples of the startup, then those of a model.

    Each is drawn again while it is equal to that of an earlier trial, unless `spec` allows that.
    """

    def __init__(self, problem: SearchProblem, spec: DrawnSearcherSpec, model: Model) -> None:
        space = problem.search_space
        self._problem = problem
        self._model = model
        self._initial: deque[Sample] = deque(initial_sample(space, point) for point in spec.initial)
        self._initial.extend(known_sample(space, parameters) for parameters in problem.known)
        self._startup = SobolStartup(problem) if spec.startup == "sobol" else None
        self._untried = Untried(space)
        self._repeats = spec.repeats(space)

    def propose(self, number: int) -> dict[str, float] | None:
        sample = self._draw(number)
        if sample is not None:
            self.replay(number, sample)
        return sample

    def replay(self, number: int, sample: Sample) -> None:
        self._model.replay(number, sample)
        if self._initial or not self._repeats:
            self._untried.add(sample)

    def report(self, number: int, epoch: int, value: float) -> None:
        self._model.report(number, epoch, value)

    def observe(self, result: TrialResult) -> None:
        self._model.observe(result)

    def _draw(self, number: int) -> dict[str, float] | None:
        while self._initial:
            if self._initial[0] in self._untried:
                return dict(self._initial[0])
            self._initial.popleft()  # it stays tried
        for sample in self._samples(number):
            if self._repeats or sample in self._untried:
                return sample
        return self._untried.draw(f"{self._problem.seed}/untried/{number}")

    def _samples(self, number: int) -> Iterator[dict[str, float]]:
        if self._startup is not None and not self._model.learned():
            yield self._startup.draw(number)
        for attempt in range(ATTEMPTS):
            yield self._model.draw(number, attempt)
