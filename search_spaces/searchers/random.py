"""Random search: samples that do not depend on results."""

from __future__ import annotations

from typing import ClassVar, Literal

from search_spaces.searchers.optuna_search import OptunaSearcherSpec, Sampler


class Random(OptunaSearcherSpec):
    """Samples that do not depend on the results of trials, spread evenly (`startup: sobol`) or independent."""

    learns: ClassVar[bool] = False
    kind: Literal["random"] = "random"

    def sampler(self) -> Sampler:
        return Sampler("RandomSampler")
