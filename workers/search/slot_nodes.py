"""Slot nodes: on which of the nodes that the service has chosen the next trial is to start.

A wish, not an order: where such a node has no room any more, Ray takes another one. It must not know Ray.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from search_spaces.protocol import TrialState
from workers.state.trial_table import Trial


class SlotNodes:
    """Remembers what it chose for the trials that run."""

    def __init__(self) -> None:
        self._chosen: dict[int, str] = {}

    def choose(self, trial: Trial, promised: Mapping[str, int], trials: Mapping[int, Trial]) -> str:
        """The node with the most slots that are not chosen for others; empty where none has enough.

        `promised`: number of slots by node. `trials`: all of the experiment, by number.
        """
        self._chosen = {
            number: node
            for number, node in self._chosen.items()
            if number != trial.number and trials[number].state is TrialState.RUNNING
        }
        free = Counter(promised)
        for number, node in self._chosen.items():
            free[node] -= trials[number].slots
        node, slots = max(free.items(), key=lambda one: (one[1], one[0]), default=("", 0))
        if slots < trial.slots:
            return ""
        self._chosen[trial.number] = node
        return node
