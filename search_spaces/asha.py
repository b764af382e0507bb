"""ASHA: how early a trial may be stopped (Li et al., 2020, the stopping variant that Ray Tune ships)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from search_spaces.domains import Integer, Number
from search_spaces.spec import Spec


class AshaSpec(Spec):
    """Trials are compared at rungs: after grace_period x reduction_factor^k epochs, rounded up.

    At a rung a trial goes on if it is in the best 1/reduction_factor of those that came there before.
    grace_period equal to max_t turns early stopping off.
    """

    max_t: Annotated[Integer, Field(ge=1, le=10_000)] = Field(20, description="epochs of a trial that is never stopped")
    grace_period: Annotated[Integer, Field(ge=1)] = Field(1, description="epochs before the first rung")
    reduction_factor: Annotated[Number, Field(ge=1.25, le=100)] = Field(
        3, description="how many trials come to a rung for each one that goes on; near 1 there would be countless rungs"
    )

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
        """Epochs after which a trial that goes on is compared, ascending, as Ray Tune does it.

        A trial is compared once at each milestone grace_period x reduction_factor^k, a fraction where the
        factor is one, in the first whole epoch that reaches it. Where one epoch reaches several, the highest
        comes first and the others in epochs without one of their own. At max_t nothing is decided.
        """
        levels, waiting, milestone, power = [], 0, float(self.grace_period), 0
        for epoch in range(self.grace_period, self.max_t):
            while milestone <= epoch:
                waiting, power = waiting + 1, power + 1
                milestone = self.grace_period * self.reduction_factor**power
            if waiting:
                waiting -= 1
                levels.append(epoch)
        return levels
