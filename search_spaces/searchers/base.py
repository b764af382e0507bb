"""The search algorithm: the seam between a searcher and the search that runs its trials.

Defines the inputs and outputs of an algorithm, and the limits of all searchers. It must not know Ray,
the journal or any searcher by name.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import Field

from search_spaces.domains import Integer
from search_spaces.problems import Problem
from search_spaces.sampling import Sample, domains
from search_spaces.spec import Spec

#: Of one experiment.
MAX_TRIALS = 100_000

NumSamples = Annotated[Integer, Field(ge=1, le=MAX_TRIALS, description="Number of trials.")]


class Finding(Enum):
    """The result of an ended trial, for the searcher.

    COMPLETED: the best value of all of its epochs.
    EARLY_STOPPED: the values of its first epochs, which were worse than those of other trials.
    DIVERGED: the network diverged.
    UNKNOWN: nothing; the trial failed or was canceled.
    """

    COMPLETED = "completed"
    EARLY_STOPPED = "early stopped"
    DIVERGED = "diverged"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class TrialResult:
    """An ended trial. `curve` holds the objective of each epoch, NaN where the network diverged."""

    number: int
    finding: Finding
    curve: tuple[float, ...]
    best_value: float | None


@dataclass(frozen=True)
class SearchProblem:
    """The search space and the direction of a search.

    `sign` is 1 if larger values of the objective are better, otherwise -1. `rungs` are the epochs before the last at
    which the experiment's stopping rule compares trials, in ascending order. `known` are configurations that were good
    in earlier experiments, perhaps of another search space: hyperparameters under dotted names, as trials are listed.
    """

    search_space: Spec
    sign: int
    seed: int
    rungs: tuple[int, ...] = ()
    known: tuple[Mapping[str, Any], ...] = ()


class SearchAlgorithm(Protocol):
    """Proposes the samples of trials, numbered from 0.

    An algorithm stores nothing. After a crash a new one is made; `replay` is called for every trial that was proposed,
    in the order of their numbers, then `report` for every finished epoch and `observe` for every trial that has ended.
    The sample of a trial may depend on the problem, the trial's number and the set of calls before it, and on nothing
    else, so that a search that was interrupted proposes what an uninterrupted one does.
    """

    def propose(self, number: int) -> dict[str, float] | None:
        """The sample of trial `number`: a value for every domain that applies. None when there are no more."""

    def replay(self, number: int, sample: Sample) -> None:
        """Take note that trial `number` was proposed with `sample`, by an earlier algorithm or another experiment."""

    def report(self, number: int, epoch: int, value: float) -> None:
        """Take note of the objective of a trial after an epoch (from 1): NaN where the network diverged."""

    def observe(self, result: TrialResult) -> None:
        """Take note of a trial that has ended, all of whose epochs were reported."""


class SearcherSpec(Spec):
    """The base of all searchers. A member declares `kind: Literal[...]` with a default, and its own fields.

    `exhaustive`: whether the searcher walks through a finite list of samples, each once.
    """

    kind: str
    exhaustive: ClassVar[bool] = False

    @abstractmethod
    def trial_count(self, search_space: Spec) -> int:
        """The number of trials that this searcher proposes over `search_space`."""

    def learns(self, search_space: Spec) -> bool:
        """Whether later trials depend on the results of earlier ones."""
        return True

    def problems(self, search_space: Spec) -> Iterator[Problem]:
        """Problems of this searcher with `search_space`, with paths from the root of the spec."""
        yield from ()

    def warnings(self, search_space: Spec) -> Iterator[Problem]:
        """Settings of this searcher that are probably mistakes with `search_space`, with paths from the root."""
        yield from ()

    @abstractmethod
    def algorithm(self, problem: SearchProblem) -> SearchAlgorithm:
        """A new algorithm that has proposed nothing."""


def startup_warnings(search_space: Spec, num_samples: int, startup_trials: int) -> Iterator[Problem]:
    """The warning that a searcher would never use its model."""
    if startup_trials >= num_samples and any(True for _ in domains(search_space)):
        rule = f"should be less than num_samples={num_samples}, otherwise the model is never used"
        yield Problem("searcher.startup_trials", rule, startup_trials)


def proposal_seed(seed: int, number: int, attempt: int, size: int) -> int:
    """A seed of `size` bytes for one proposal, independent of how many were drawn before it."""
    again = f"/{attempt}" if attempt else ""
    return int.from_bytes(hashlib.sha256(f"{seed}/proposal/{number}{again}".encode()).digest()[:size], "big")
