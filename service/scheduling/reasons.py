"""Reasons: why an experiment waits, as a sentence for a person. It must not know how slots are divided.

They name no other team: not everybody may know of it.
"""

from __future__ import annotations

from search_spaces.gpu_types import in_words
from search_spaces.phrases import counted
from service.domain.cluster import Cluster
from service.scheduling import fitting
from service.scheduling.request_ages import LATE_S
from service.scheduling.shares import Why
from service.settings import variable

FOR_SLOTS = "waiting for free slots"
#: Beside a node that Ray is asked for, or would be.
REQUESTED, NOT_ASKED = "requested from Ray", "Ray could not be asked for one"
IN_VAIN = "but no such node has come; on the head node, `ray status` says what Ray waits for"
UNMEASURED = "each trial counts as a whole GPU until its driver has measured how many share one"
#: What depends on the size of a trial.
FOR_SIZE = frozenset({Why.NODE, Why.TEAM, Why.SHARE})

PLAIN = {
    Why.BUDGET: "waiting for the budget of its team: that of this month is spent; it continues with the next month "
    "(UTC), or when an administrator raises it",
    Why.LIMIT: "waiting for its team: it uses as much of the cluster as it may",
    Why.MAX_RUNNING: "waiting for another experiment of its team to end: as many run as may",
    Why.DRAINING: "waiting for free slots: trials on a node are ending, so that a trial of this size fits",
    Why.MOVING: "waiting for its trials to leave a node that another trial needs",
}


def requested(age_s: float) -> str:
    """The words beside a node for which Ray has been asked for so long in vain. They change in steps, because each
    change is written for all that wait."""
    if age_s < LATE_S:
        return REQUESTED
    minutes = int(age_s // LATE_S * LATE_S // 60)
    return f"{REQUESTED} {counted(minutes, 'minute') if minutes < 120 else f'{minutes // 60} hours'} ago, {IN_VAIN}"


def not_on(nodes: int) -> str:
    """What follows a sentence where this number of nodes failed the last attempt."""
    return f"; not on {counted(nodes, 'node')} that failed its last attempt" if nodes else ""


class Sentences:
    """`cluster`: what the pool has of it. `max_running`: number of experiments that may run at once, in all pools; of
    these, `kept` may run in other pools only."""

    def __init__(self, cluster: Cluster, max_running: int, kept: int = 0) -> None:
        self._cluster = cluster
        self._max_running = max_running
        self._kept = kept

    def of(
        self,
        cpus: float,
        gpus: float,
        gpu_types: frozenset[str],
        why: Why,
        of_new_node: str = "",
        is_unmeasured: bool = False,
    ) -> str:
        """Why an experiment whose trials have this size waits. `of_new_node`: `requested`, NOT_ASKED, or nothing where
        Ray is not to be asked for a node for it. `is_unmeasured`: its trials may be smaller than this."""
        sentence = self._of(cpus, gpus, gpu_types, why, of_new_node)
        return f"{sentence}; {UNMEASURED}" if is_unmeasured and why in FOR_SIZE else sentence

    def _of(self, cpus: float, gpus: float, gpu_types: frozenset[str], why: Why, of_new_node: str) -> str:
        of_type = f" with {in_words(gpu_types)}" if gpu_types else ""
        if not self._cluster.of_types(gpu_types).kinds:
            return f"waiting for a node{of_type}: {self._cluster.where} has none"
        if misfits := fitting.misfits(self._cluster, cpus, gpus, gpu_types):
            return f"waiting for a larger node: {misfits[0].field}: {misfits[0].rule}"
        if why is Why.DRIVERS:
            places = f", and {counted(self._kept, 'more is', 'more are')} kept for other pools" if self._kept else ""
            others = f"{max(0, self._max_running - self._kept)} run already{places} ({variable('max_drivers')})"
            return f"waiting for another experiment to end: {others}"
        if why is Why.HOLD:
            return f"waiting for an administrator: {self._cluster.where} starts no experiments"
        if why is Why.NODE:
            node = f"waiting for a node with {_amounts(cpus, gpus)}{of_type and f', {in_words(gpu_types)}'}"
            return f"{node} ({of_new_node})" if of_new_node else f"{node}, after the experiments before it"
        free = f"{FOR_SLOTS} on nodes{of_type}" if of_type else FOR_SLOTS
        return f"{PLAIN.get(why, free)}{f', or for a new node ({of_new_node})' if of_new_node else ''}"


def _amounts(cpus: float, gpus: float) -> str:
    if not gpus:
        return counted(cpus, "CPU")
    return f"{counted(gpus, 'GPU')} and {counted(cpus, 'CPU')}"
