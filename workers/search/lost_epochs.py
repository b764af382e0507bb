"""Lost epochs: those that trials train again, because their newest checkpoints are missing, damaged or not theirs.

Owns how that shows, and the sentence for a person. The log of the trial says what is wrong with which checkpoint. It
must not know checkpoints.
"""

from __future__ import annotations

import logging

from search_spaces.phrases import counted

log = logging.getLogger(__name__)


class LostEpochs:
    """Other threads may ask for the `sentence`."""

    def __init__(self) -> None:
        self._of_trial: dict[int, int] = {}  # replaced, not changed, as other threads read it

    def look(self, trial: int, known: int, reported: int, resumed_after: int) -> None:
        """A trial of which `known` epochs are journaled reports the epoch `reported`, or 0 where it left its first one.
        Its process began with the checkpoint of the epoch `resumed_after`, 0 for none."""
        if 0 < reported <= known and resumed_after < known and trial not in self._of_trial:
            self._of_trial = {**self._of_trial, trial: known - resumed_after}
            why = "it has no newer checkpoint that can be used, as its log says"
            log.warning("trial %d resumes after epoch %d, of %d: %s", trial, resumed_after, known, why)

    def sentence(self) -> str:
        """How many are trained again; empty for none."""
        lost = self._of_trial
        if not lost:
            return ""
        trials = f"trial {min(lost)}"
        if len(lost) > 1:
            trials = f"{counted(len(lost), 'trial')}, the first of them {trials},"
        epochs = counted(sum(lost.values()), f"epoch of {trials} is", f"epochs of {trials} are")
        return f"{epochs} trained again, because newer checkpoints are missing or cannot be used"
