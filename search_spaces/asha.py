"""ASHA: how early a trial may be stopped (Li et al., 2020, the stopping variant that Ray Tune ships)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from search_spaces.domains import Integer, Number
from search_spaces.spec import Spec


class AshaSpec(Spec):
    """Trials are compared at rungs of grace_period x reduction_factor^k epochs.

    At a rung a trial goes on if it is in the best 1/reduction_factor of those that came there before.
    grace_period equal to max_t turns early stopping off.
    """

    max_t: Annotated[Integer, Field(ge=1, le=10_000)] = Field(20, description="epochs of a trial that is never stopped")
    grace_period: Annotated[Integer, Field(ge=1)] = Field(1, description="epochs before the first rung")
    reduction_factor: Annotated[Number, Field(gt=1, le=100)] = 3

    @model_validator(mode="after")
    def _grace_within_max(self) -> AshaSpec:
        if self.grace_period > self.max_t:
            raise PydanticCustomError(
                "asha_order",
                "grace_period <= max_t required, got grace_period={grace}, max_t={max_t}",
                {"grace": self.grace_period, "max_t": self.max_t},
            )
        return self

    def rungs(self) -> list[int]:
        """Epochs of the rungs below max_t, ascending; Ray Tune computes the same."""
        levels: list[int] = []
        level = float(self.grace_period)
        while level < self.max_t:
            levels.append(int(level))
            level *= self.reduction_factor
        return levels
