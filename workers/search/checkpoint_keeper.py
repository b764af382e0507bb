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

    def prune(self, numbers: Iterable[int], registered: int | None = None) -> None:
        """Delete the files of ended trials that the policy does not keep: these trials never resume.

        Once the search is over, `registered` is the trial whose model is registered. Before, the best trial and each
        replicate may win. What cannot be deleted stays and is logged.
        """
        self._unpruned |= {number for number in numbers if self._table.trials[number].ended} - self._pruned
        if not self._unpruned:
            return
        leaders = self._candidates() if registered is None else {registered}
        try:
            checkpoints.prune(
                self._artifacts, self._unpruned, leaders, self._policy, winner_registered=registered is not None
            )
            self._pruned |= self._unpruned - leaders
            self._unpruned &= leaders
        except OSError as error:
            log.warning("checkpoints of ended trials stay: %s", error)

    def _candidates(self) -> set[int]:
        """The trials one of which wins."""
        best, trials = self._table.best(), self._table.trials
        replicates = filter(is_replicate, self._unpruned)
        completed = {number for number in replicates if trials[number].state is TrialState.COMPLETED}
        return completed | ({best.number} if best else set())
