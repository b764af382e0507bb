"""Exchange: a slot on a node that only some can use, from an experiment that can be elsewhere as well.

Without it, an experiment with a choice of nodes keeps out one without. It must not know whose turn it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from service.scheduling.placement import Placement
from service.scheduling.turns import Entry


def exchange(entry: Entry, others: Iterable[Entry], placement: Placement) -> str | None:
    """The node of a slot that `entry` takes over from another one, which gets one elsewhere; None if nobody can change.

    Only slots of the same size are exchanged, so that all fits as before. First come those that no trial holds yet,
    then those of who has the most. The first slot of a protected experiment stays, and nobody moves to a node whose
    GPUs others want.
    """
    if not entry.size.is_choosy:
        return None
    for other, node in sorted(_candidates(entry, others, placement), key=_cost):
        elsewhere = placement.place(other.size, other.held, leave_gpus=True, preference=other.preference())
        if elsewhere is not None:
            other.nodes[other.nodes.index(node)] = elsewhere
            other.strays = other.strays or node in other.demand.held
            return node
    return None


def _candidates(entry: Entry, others: Iterable[Entry], placement: Placement) -> Iterator[tuple[Entry, str]]:
    """Slots that `entry` could use; of each other one the cheapest."""
    amounts = entry.size.cpus, entry.size.gpus
    for other in others:
        if other is entry or (other.size.cpus, other.size.gpus) != amounts:
            continue
        usable = [node for node in other.nodes[other.demand.protected :] if placement.allows(entry.size, node)]
        if usable:
            yield other, min(usable, key=lambda node: node in other.demand.held)


def _cost(candidate: tuple[Entry, str]) -> tuple[bool, int, str]:
    other, node = candidate
    return node in other.demand.held, -len(other.nodes), other.demand.experiment_id
