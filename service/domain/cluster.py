"""The cluster as the service sees it: the total resources and the labels of its nodes, and of those that it can get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Node:
    """The total resources of one node, used or free. `id` is the one by which drivers name it."""

    name: str
    cpus: float
    gpus: float = 0
    id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


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
    def cpus(self) -> float:
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(node.gpus for node in self.nodes)

    @property
    def default_gpus_per_trial(self) -> int:
        """The GPUs of a trial whose spec does not say: one, if there are any or can be."""
        return 1 if any(node.gpus for node in self.kinds) else 0
