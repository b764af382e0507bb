"""Cost: what a slot costs, as one number, so that trials of different sizes can be compared.

It is the dominant resource: the larger one of the slot's part of all GPUs and of all CPUs, expressed in GPUs, or in
CPUs where no node has a GPU. Quotas and limits have this unit. Pure.
"""

from __future__ import annotations

from typing import Literal

from service.domain.cluster import Cluster
from service.scheduling.placement import UNITS, Size

Unit = Literal["GPUs", "CPUs"]


class Costs:
    """What slots cost on these nodes, in ten-thousandths of the unit, as the `capacity` of all living nodes is.

    Nodes that there can be count for the unit and for what a CPU is worth in it: a quota in GPUs stays one while no
    node with GPUs is there.
    """

    def __init__(self, nodes: Cluster) -> None:
        self._gpus = sum(int(node.gpus) for node in nodes.kinds)
        self._cpus = sum(int(node.cpus * UNITS) for node in nodes.kinds)
        self.unit: Unit = "GPUs" if self._gpus else "CPUs"
        gpus = sum(int(node.gpus) for node in nodes.nodes)
        cpus = sum(int(node.cpus * UNITS) for node in nodes.nodes)
        self.capacity = (gpus * UNITS) or cpus
        if self._gpus and self._cpus:
            self.capacity = max(gpus * UNITS, cpus * self._gpus * UNITS // self._cpus)

    def of(self, size: Size) -> int:
        if not self._gpus or not self._cpus:
            return max(1, size.cpus)
        return max(1, size.gpus, -(-size.cpus * self._gpus * UNITS // self._cpus))
