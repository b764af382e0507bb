"""TPE: tree-structured Parzen estimators (Bergstra et al., 2011), as Optuna implements them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from search_spaces.domains import Integer
from search_spaces.searchers.optuna_search import OptunaSearcherSpec


class TPE(OptunaSearcherSpec):
    """Optuna's TPE sampler (Bergstra et al., 2011). Each domain is modeled independently."""

    sampler: ClassVar[str] = "TPESampler"
    kind: Literal["tpe"] = "tpe"
    startup_trials: Annotated[Integer, Field(ge=1)] = Field(
        10, description="Number of random trials before the sampler uses its model."
    )

    def sampler_options(self) -> dict[str, Any]:
        """Trials that still run count as bad (`constant_liar`), so that trials at once differ from each other."""
        return {"n_startup_trials": self.startup_trials, "constant_liar": True}
