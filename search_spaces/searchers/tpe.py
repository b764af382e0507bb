"""TPE: tree-structured Parzen estimators (Bergstra et al., 2011), as Optuna implements them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from search_spaces.domains import Integer
from search_spaces.searchers.base import NumSamples, SearcherSpec
from search_spaces.spec import Spec


class TPE(SearcherSpec):
    """Tree-structured Parzen estimators (Bergstra et al., 2011) through Optuna; conditional domains apart."""

    kind: Literal["tpe"] = "tpe"
    num_samples: NumSamples = 20
    startup_trials: Annotated[Integer, Field(ge=1)] = Field(10, description="random trials before the model is used")

    def trial_count(self, search_space: Spec) -> int:
        return self.num_samples
