"""The base of every early stopping rule's spec."""

from __future__ import annotations

from collections.abc import Iterator

from search_spaces.problems import Problem
from search_spaces.spec import Spec


class EarlyStoppingSpec(Spec):
    """What all rules share. A member declares `kind: Literal[...]` with a default, and its own fields."""

    kind: str

    def problems(self, max_epochs: int) -> Iterator[Problem]:
        """What of this rule does not fit trials of `max_epochs` epochs, with paths from the root of the spec."""
        yield from ()
