"""CheckpointKeeper: deletes the checkpoints that ended trials need no longer.

Owns when they are deleted and which trials may still have some; `kept_checkpoints` says which stay. It must
not know Ray, MLflow or the service.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from search_spaces.checkpoint_policy import CheckpointPolicy
from search_spaces.protocol import TrialState
from search_spaces.replicates import is_replicate
from search_spaces.storage.base import ArtifactStore
from workers.state import checkpoints
from workers.state.trial_table import TrialTable

log = logging.getLogger(__name__)

UPLOAD_S = 30.0  # how long the process of an ended trial may still upload its newest epoch to a remote storage


class CheckpointKeeper:
    """Trials that have ended before this was made are looked at once. `clock` gives monotonic seconds."""

    def __init__(
        self,
        artifacts: ArtifactStore,
        policy: CheckpointPolicy,
        table: TrialTable,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._artifacts = artifacts
        self._policy = policy
        self._table = table
        self._clock = clock
        now = clock()
        #: Ended trials that have files which are not kept, or may win, and from when on they are looked at.
        self._unpruned = {trial.number: now for trial in table.trials.values() if trial.ended}
        self._pruned: set[int] = set()  # which need no second look: a search may have thousands of trials

    def prune(self, numbers: Iterable[int]) -> None:
        """Delete the files of ended trials that the policy does not keep: these trials never resume.

        While the search runs, the best trial and each replicate may win. What cannot be deleted stays and is logged.
        """
        best, trials = self._table.best(), self._table.trials
        self._add(numbers, UPLOAD_S if self._artifacts.is_remote else 0)
        replicates = filter(is_replicate, self._unpruned)
        completed = {number for number in replicates if trials[number].state is TrialState.COMPLETED}
        self._keep(completed | ({best.number} if best else set()))

    def finish(self, winner: int | None) -> None:
        """The same once the search is over, and the model of `winner` is registered.

        Without one, as where an extended search was canceled, the best trial is kept, and the run that was registered
        at an earlier end.
        """
        best, earlier = self._table.best(), self._table.winner
        self._add(self._table.trials)
        self._unpruned = dict.fromkeys(self._unpruned, self._clock())  # no process trains any more
        if winner is not None:
            self._keep({winner}, registered=True)
        else:
            self._keep(({best.number} if best else set()) | ({earlier.trial} if earlier else set()))

    def _add(self, numbers: Iterable[int], wait_s: float = 0) -> None:
        at = self._clock() + wait_s
        for number in numbers:
            if self._table.trials[number].ended and number not in self._pruned:
                self._unpruned.setdefault(number, at)

    def _keep(self, leaders: set[int], registered: bool = False) -> None:
        now = self._clock()
        due = {number for number, at in self._unpruned.items() if at <= now}
        if not due:
            return
        try:
            checkpoints.prune(self._artifacts, due, leaders, self._policy, winner_registered=registered)
            self._pruned |= due - leaders
            for number in due - leaders:
                del self._unpruned[number]
        except OSError as error:
            log.warning("checkpoints of ended trials stay: %s", error)
