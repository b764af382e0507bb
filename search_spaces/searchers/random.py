"""Random search: every domain is drawn independently."""

from __future__ import annotations

from typing import ClassVar, Literal

from search_spaces.searchers.optuna_search import OptunaSearcherSpec


class Random(OptunaSearcherSpec):
    """Every domain is drawn independently."""

    sampler: ClassVar[str] = "RandomSampler"
    kind: Literal["random"] = "random"
