"""ASHA: asynchronous successive halving (Li et al., 2020), the variant that stops trials instead of pausing them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from search_spaces.domains import Integer, Number
from search_spaces.early_stopping.base import EarlyStoppingSpec
from search_spaces.problems import Problem


class Asha(EarlyStoppingSpec):
    """Trials are compared at rungs: after grace_period x reduction_factor^k epochs, rounded up.

    At a rung a trial continues if it is among the best 1/reduction_factor of the trials that reached the rung before.
    """

    kind: Literal["asha"] = "asha"
    grace_period: Annotated[Integer, Field(ge=1)] = Field(
        1, description="number of epochs before the first rung; at most `max_epochs`"
    )
    reduction_factor: Annotated[Number, Field(ge=1.25, le=100)] = Field(
        3, description="number of trials that reach a rung for each trial that continues"
    )

    def problems(self, max_epochs: int) -> Iterator[Problem]:
        if self.grace_period > max_epochs:
            yield Problem("early_stopping.grace_period", f"must be at most max_epochs={max_epochs}", self.grace_period)
