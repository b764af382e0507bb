"""The cluster as the service sees it: the total resources of its living nodes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """The total resources of one node, used or free. `id` is the one by which drivers name it."""

    name: str
    cpus: float
    gpus: float = 0
    id: str = ""


@dataclass(frozen=True)
class Cluster:
    """The living nodes."""

    nodes: tuple[Node, ...] = ()

    @property
    def cpus(self) -> float:
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(node.gpus for node in self.nodes)

    @property
    def default_gpus_per_trial(self) -> int:
        """The GPUs of a trial whose spec does not say: one, if there are any."""
        return 1 if self.gpus else 0
