"""Leaving nodes: nodes that have announced their end, such as spot machines, and how long they stay.

Ray calls them draining (`ray drain-node`, a node that got SIGTERM, the autoscaler), and starts nothing there any more;
what runs there has to go by itself. Owns how often Ray is asked. It must not know trials.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

log = logging.getLogger(__name__)

LOOK_S = 2.0  # some clouds announce the end of a machine 30 s before
#: So long before its end, a node must be left in the middle of an epoch: a process sees the request after a second or
#: two, and may have to write logs.
LAST_S = 20.0
#: So long a node counts after Ray has ceased to list it: a node that has ended is no longer listed, and its trials may
#: be found lost only after that.
GONE_S = 30.0


class Announcements(Protocol):
    """What Ray says of nodes that leave; the production implementation is `workers.nodes.RayCluster`."""

    def draining(self) -> Mapping[str, float]:
        """Seconds that each such node stays, by its id; infinite where no end was named. Raises what Ray raises."""

    def node_of(self, actor: Any) -> str:
        """The id of the node on which an actor runs; empty while it is not known. Raises what Ray raises."""


class LeavingNodes:
    """For one thread; others may ask for `ids`. `clock` gives monotonic seconds."""

    def __init__(self, announcements: Announcements, clock: Callable[[], float]) -> None:
        self._announcements = announcements
        self._clock = clock
        self._next_look = 0.0
        self._end: dict[str, float] = {}  # by id; replaced, not changed, as other threads read it
        self._listed_at: dict[str, float] = {}

    @property
    def ids(self) -> set[str]:
        return set(self._end)

    def look(self) -> None:
        """Ask Ray. Often called: mostly does nothing."""
        if (now := self._clock()) < self._next_look:
            return
        self._next_look = now + LOOK_S
        try:
            found = self._announcements.draining()
        except Exception as error:  # its head does not answer; trials continue, and so does what was known
            log.warning("Ray was asked in vain for nodes that leave: %r", error)
            return
        self._listed_at.update(dict.fromkeys(found, now))
        self._listed_at = {node: at for node, at in self._listed_at.items() if now - at <= GONE_S}
        ends = {node: now + left_s for node, left_s in found.items()}
        self._end = {node: min(ends.get(node, math.inf), self._end.get(node, math.inf)) for node in self._listed_at}

    def left_s(self, actor: Any) -> float | None:
        """Seconds that the node of an actor stays; None if it has not announced its end, or there is no actor."""
        if not self._end or actor is None:
            return None
        try:
            end = self._end.get(self._announcements.node_of(actor))
        except Exception as error:
            log.warning("Ray was asked in vain for the node of a trial: %r", error)
            return None
        return None if end is None else end - self._clock()


def is_urgent(left_s: float) -> bool:
    """Whether a node that stays so long must be left at once."""
    return left_s <= LAST_S


def seconds_until(deadline_ms: int, now_s: float) -> float:
    """Of a time as Ray gives it: Unix milliseconds, 0 for none."""
    return deadline_ms / 1000 - now_s if deadline_ms else math.inf
