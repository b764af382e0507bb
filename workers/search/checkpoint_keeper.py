"""CheckpointKeeper: deletes the checkpoints that ended trials need no longer.

Owns when they are deleted and which trials may still have some; `kept_checkpoints` says which stay. It must
not know Ray, MLflow or the service.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from search_spaces.checkpoint_policy import CheckpointPolicy
from search_spaces.protocol import TrialState
from search_spaces.replicates import is_replicate
from search_spaces.storage.base import ArtifactStore
from workers.state import checkpoints
from workers.state.trial_table import TrialTable

log = logging.getLogger(__name__)


class CheckpointKeeper:
    """Trials that have ended before this was made are looked at once."""

    def __init__(self, artifacts: ArtifactStore, policy: CheckpointPolicy, table: TrialTable) -> None:
        self._artifacts = artifacts
        self._policy = policy
        self._table = table
        self._unpruned = {trial.number for trial in table.trials.values() if trial.ended}
        self._pruned: set[int] = set()  # which need no second look: a search may have thousands of trials

    def prune(self, numbers: Iterable[int]) -> None:
        """Delete the files of ended trials that the policy does not keep: these trials never resume.

        While the search runs, the best trial and each replicate may win. What cannot be deleted stays and is logged.
        """
        best, trials = self._table.best(), self._table.trials
        self._add(numbers)
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
        if winner is not None:
            self._keep({winner}, registered=True)
        else:
            self._keep(({best.number} if best else set()) | ({earlier.trial} if earlier else set()))

    def _add(self, numbers: Iterable[int]) -> None:
        self._unpruned |= {number for number in numbers if self._table.trials[number].ended} - self._pruned

    def _keep(self, leaders: set[int], registered: bool = False) -> None:
        if not self._unpruned:
            return
        try:
            checkpoints.prune(self._artifacts, self._unpruned, leaders, self._policy, winner_registered=registered)
            self._pruned |= self._unpruned - leaders
            self._unpruned &= leaders
        except OSError as error:
            log.warning("checkpoints of ended trials stay: %s", error)
