"""Random search: every domain is drawn independently."""

from __future__ import annotations

from typing import Literal

from search_spaces.searchers.optuna_search import OptunaSearcherSpec, Sampler


class Random(OptunaSearcherSpec):
    """Every domain is drawn independently."""

    kind: Literal["random"] = "random"

    def sampler(self) -> Sampler:
        return Sampler("RandomSampler")
