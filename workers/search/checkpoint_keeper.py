"""CheckpointKeeper: deletes the checkpoints that ended trials need no longer.

Owns when they are deleted and which trials may still have some; `kept_checkpoints` says which stay. It must
not know Ray, MLflow or the service.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from search_spaces.checkpoint_policy import CheckpointPolicy
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

        What cannot be deleted stays and is logged.
        """
        self._unpruned |= {number for number in numbers if self._table.trials[number].ended} - self._pruned
        if not self._unpruned:
            return
        best, winner = self._table.best(), self._table.winner
        registered = winner.trial if winner else None
        leaders = {best.number} if best else set()
        if registered is not None and is_replicate(registered):
            leaders = {registered}
        else:  # each of them may become the winner
            leaders |= {number for number in self._unpruned if is_replicate(number)}
        try:
            checkpoints.prune(
                self._artifacts, self._unpruned, leaders, self._policy, winner_registered=registered in leaders
            )
            self._pruned |= self._unpruned - leaders
            self._unpruned &= leaders
        except OSError as error:
            log.warning("checkpoints of ended trials stay: %s", error)
