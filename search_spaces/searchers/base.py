"""The base of every searcher's spec, and the limits that all searchers share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from search_spaces.domains import Integer
from search_spaces.problems import Problem
from search_spaces.spec import Spec

#: Of one experiment.
MAX_TRIALS = 100_000

NumSamples = Annotated[Integer, Field(ge=1, le=MAX_TRIALS, description="number of trials")]


class SearcherSpec(Spec):
    """What all searchers share. A member declares `kind: Literal[...]` with a default, and its own fields.

    `exhaustive`: whether the searcher walks through a finite list of samples, each once.
    """

    kind: str
    exhaustive: ClassVar[bool] = False

    def trial_count(self, search_space: Spec) -> int:
        """The number of trials that this searcher proposes over `search_space`."""
        raise NotImplementedError

    def problems(self, search_space: Spec) -> Iterator[Problem]:
        """What of this searcher does not fit `search_space`, with paths from the root of the spec."""
        yield from ()
