"""The base of every early stopping rule's spec."""

from __future__ import annotations

from search_spaces.spec import Spec


class EarlyStoppingSpec(Spec):
    """What all rules share. A member declares `kind: Literal[...]` with a default, and its own fields."""

    kind: str
