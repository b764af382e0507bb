"""Grid search: every combination of finite domains, each once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from search_spaces.domains import Interval
from search_spaces.problems import Problem
from search_spaces.sampling import as_written, count_combinations, domains
from search_spaces.searchers.base import MAX_TRIALS, NumSamples, SearcherSpec
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

    def problems(self, search_space: Spec) -> Iterator[Problem]:
        continuous = False
        for path, domain in domains(search_space):
            if isinstance(domain, Interval) and domain.step is None:
                continuous = True
                rule = "must be finite for a grid: list values in a choice, or use quniform"
                yield Problem(f"search_space.{as_written(search_space, path)}", rule, domain.model_dump(mode="json"))
        if not continuous and self.num_samples is None and (every := count_combinations(search_space)) > MAX_TRIALS:
            count = f"{every:.4g}" if every < 1e300 else "far more"
            rule = f"must be given, at most {MAX_TRIALS}, because the grid has {count} combinations"
            yield Problem("searcher.num_samples", rule)
