"""The cluster as the service sees it: the total resources and the labels of its nodes, and of those that it can get."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from search_spaces.gpu_types import GPU_TYPE_LABEL


@dataclass(frozen=True)
class Node:
    """The total resources of one node, used or free. `id` is the one by which drivers name it."""

    name: str
    cpus: float
    gpus: float = 0
    id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def gpu_type(self) -> str:
        """The type of its GPUs; empty if it has none, or nobody has said it."""
        return self.labels.get(GPU_TYPE_LABEL, "") if self.gpus else ""


@dataclass(frozen=True)
class Cluster:
    """The living nodes; those of one pool, if `pool` names it.

    `possible`: one node of each kind that Ray's autoscaler can add when it is asked.
    """

    nodes: tuple[Node, ...] = ()
    pool: str = ""
    possible: tuple[Node, ...] = ()

    @property
    def where(self) -> str:
        """In sentences."""
        return f"the pool {self.pool}" if self.pool else "the cluster"

    @property
    def kinds(self) -> tuple[Node, ...]:
        """The nodes that there are, and those that there can be."""
        return self.nodes + self.possible

    @property
    def gpu_types(self) -> list[str]:
        """The types of GPUs that there are or can be."""
        return sorted({node.gpu_type for node in self.kinds} - {""})

    def of_types(self, gpu_types: Collection[str]) -> Cluster:
        """The nodes with GPUs of one of these types; all, where there are none."""
        if not gpu_types:
            return self
        own, possible = (
            tuple(node for node in some if node.gpu_type in gpu_types) for some in (self.nodes, self.possible)
        )
        return replace(self, nodes=own, possible=possible)

    @property
    def cpus(self) -> float:
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(node.gpus for node in self.nodes)

    @property
    def default_gpus_per_trial(self) -> int:
        """The GPUs of a trial whose spec does not say: one, if there are any or can be."""
        return 1 if any(node.gpus for node in self.kinds) else 0
