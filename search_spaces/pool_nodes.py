"""Pool nodes: which nodes of a cluster belong to a pool, by the labels that Ray gives them.

Owns the rule by which the service shares nodes and a driver places trials. It must not know where pools are stored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from pydantic import BaseModel, ConfigDict, Field

from search_spaces.gpu_types import GPU_TYPE_LABEL


class PoolNodes(BaseModel):
    """The nodes that have all of `labels`, and not all of any of `others`, the labels of other pools; of these, those
    with GPUs of one of `gpu_types`, where there are any."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    labels: dict[str, str] = Field(default_factory=dict, description="Labels that a node of the pool has.")
    others: list[dict[str, str]] = Field(
        default_factory=list, description="Labels of other pools: a node with all labels of one is not of this pool."
    )
    gpu_types: list[str] = Field(default_factory=list, description="Types of GPUs that are allowed; empty: all nodes.")

    def of_types(self, gpu_types: Collection[str]) -> PoolNodes:
        """Those with GPUs of one of these types; all, where there are none."""
        return self.model_copy(update={"gpu_types": sorted(gpu_types)})

    def has(self, node: Mapping[str, str]) -> bool:
        """Whether a node with these labels belongs to the pool."""
        is_of_type = not self.gpu_types or node.get(GPU_TYPE_LABEL) in self.gpu_types
        is_foreign = any(one.items() <= node.items() for one in self.others)
        return is_of_type and self.labels.items() <= node.items() and not is_foreign

    def selector(self) -> dict[str, str]:
        """Ray's label selector, as far as one can say it: that a node must not have several labels at once, it cannot
        (`is_left`)."""
        foreign = defaultdict(list)
        for one in self.others:
            if len(one) == 1:
                [(key, value)] = one.items()
                foreign[key].append(value)
        selector = {key: f"!in({', '.join(sorted(values))})" for key, values in foreign.items()}
        if own := [one for one in self.gpu_types if one not in foreign[GPU_TYPE_LABEL]]:
            selector[GPU_TYPE_LABEL] = f"in({', '.join(own)})"
        return {**selector, **self.labels}

    def is_left(self, node: Mapping[str, str]) -> bool:
        """Whether `selector` takes a node that does not belong to the pool."""
        return any(len(one) > 1 and one.items() <= node.items() for one in self.others)
