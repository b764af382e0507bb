"""Random search: samples that do not depend on results."""

from __future__ import annotations

from typing import Literal

from search_spaces.searchers.optuna_search import OptunaSearcherSpec, Sampler
from search_spaces.spec import Spec


class Random(OptunaSearcherSpec):
    """Samples that do not depend on the results of trials, spread evenly (`startup: sobol`) or independent."""

    kind: Literal["random"] = "random"

    def learns(self, search_space: Spec) -> bool:
        return False

    def sampler(self) -> Sampler:
        return Sampler("RandomSampler")
