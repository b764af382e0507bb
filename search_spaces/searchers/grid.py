"""Grid search: every combination of finite domains, each once."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from search_spaces.sampling import count_combinations
from search_spaces.searchers.base import NumSamples, SearcherSpec
from search_spaces.spec import Spec


class Grid(SearcherSpec):
    """Every combination of finite domains once, in the order of the spec. Continuous domains are errors."""

    exhaustive: ClassVar[bool] = True
    kind: Literal["grid"] = "grid"
    num_samples: NumSamples | None = Field(
        None, description="limit to this number of combinations; default: all combinations"
    )

    def trial_count(self, search_space: Spec) -> int:
        every = count_combinations(search_space)
        return min(self.num_samples or every, every)
