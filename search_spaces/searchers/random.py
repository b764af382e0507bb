"""Random search: every domain is drawn independently."""

from __future__ import annotations

from typing import Literal

from search_spaces.searchers.base import NumSamples, SearcherSpec
from search_spaces.spec import Spec


class Random(SearcherSpec):
    """Every domain is drawn independently."""

    kind: Literal["random"] = "random"
    num_samples: NumSamples = 20

    def trial_count(self, search_space: Spec) -> int:
        return self.num_samples
