"""Request ages: for how long Ray has been asked for a kind of slot while no node came that could hold one.

Owns these times, in the memory of the replica that schedules: another one starts from zero. It must not know why nodes
are lacking.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from service.domain.cluster import Cluster
from service.scheduling.placement import Size, is_large_enough

#: A node that has not come by then may never come. Machines with images to load take some minutes.
LATE_S = 600.0


@dataclass
class _OfPool:
    known: frozenset[str] = frozenset()  # ids of its nodes at the newest look
    since: dict[Size, float] = field(default_factory=dict)


class RequestAges:
    """Call `observe` in each pass for each pool. Sizes are without excluded nodes. `monotonic` gives seconds."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._pools = defaultdict[str, _OfPool](_OfPool)

    def observe(self, pool: str, asked: Collection[Size], nodes: Cluster) -> None:
        """Ray is asked for slots of the sizes `asked`, and for no others; `nodes` are those of the pool."""
        one, now = self._pools[pool], self._monotonic()
        new = [node for node in nodes.nodes if node.id not in one.known]
        one.known = frozenset(node.id for node in nodes.nodes)
        one.since = {size: now if is_large_enough(new, size) else one.since.get(size, now) for size in asked}

    def age_s(self, pool: str, size: Size) -> float:
        """For how long slots of this size have been asked for in vain; 0 if they are not."""
        since = self._pools[pool].since.get(size)
        return 0.0 if since is None else self._monotonic() - since
