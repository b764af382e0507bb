"""Saving: what a trial stores after each epoch, and how far that may be behind what it reports.

Owns the files of an epoch, their order, and the upload that runs while the next epoch is trained. It must not know Ray,
nor what a result means. Torch is imported only where it is used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from search_spaces.layout import TrialFolder
from search_spaces.storage.base import ArtifactStore
from workers.state import checkpoints
from workers.state.outcomes import ValidationOutcomes

if TYPE_CHECKING:
    from workers.trial.parallel_training import AnyTraining

log = logging.getLogger(__name__)

LONG_S = 1.0  # a longer wait for an upload is logged


class EpochSaver:
    """Saves the epochs of one trial, for one thread.

    What is saved in a folder is there when `save` returns. To a remote storage it is uploaded while the next epoch is
    trained, and `save` waits for the upload before: at most the newest saved epoch is not there yet, and memory holds
    one copy of a checkpoint. An upload that fails is made up for by the next one, for which `save` then waits.
    """

    def __init__(self, artifacts: ArtifactStore, trial: TrialFolder, *, last_is_usable: bool) -> None:
        """`last_is_usable`: whether `last.pt` may become `previous.pt`, in the place of another usable one."""
        self._artifacts = artifacts
        self._trial = trial
        self._last_is_usable = last_is_usable
        self._thread = ThreadPoolExecutor(1, "upload") if artifacts.is_remote else None
        self._upload: Future[None] | None = None

    def save(self, training: AnyTraining, result: dict[str, Any], *, at_once: bool) -> None:
        """Save what an epoch ended with: its result, the state of the training, and its weights if it is the best one.

        `at_once`: nothing of it is left to do when this returns. Raises OSError; then the files are those of the newest
        epoch that was saved, or of the one before.
        """
        is_behind = not self._is_finished()
        store = self._snapshot(training, result)
        if self._thread is None:
            store()
            return
        self._upload = self._thread.submit(store)
        if at_once or is_behind:
            self.finish()

    def finish(self) -> None:
        """Wait until everything is stored. Raises OSError, for each upload once."""
        upload, self._upload = self._upload, None
        if upload is not None:
            began = time.monotonic()
            try:
                upload.result()
            finally:
                if (waited := time.monotonic() - began) > LONG_S:
                    log.info("waited %.1f s for the upload of a checkpoint", waited)

    def _is_finished(self) -> bool:
        try:
            self.finish()
        except OSError as error:
            log.warning("the checkpoint of the epoch before is not stored: %s", error)
            return False
        return True

    def _snapshot(self, training: AnyTraining, result: dict[str, Any]) -> Callable[[], None]:
        """What stores the epoch, whatever the training does meanwhile."""
        files: dict[PurePath, bytes | memoryview] = {}
        if training.best_epoch == training.epoch:
            best = {"epoch": training.epoch, "model": training.weights()}
            files[self._trial.best] = checkpoints.encoded(best)
            right = [] if training.best_right is None else training.best_right.tolist()
            outcomes = ValidationOutcomes(training.epoch, result["validation_loss"], right)
            files[self._trial.validation] = outcomes.encode()
        state = {"spec": training.spec.model_dump_json(), "training": training.state_dict(), "result": result}
        last = checkpoints.encoded(state)

        def store() -> None:
            for name, content in files.items():
                self._artifacts.write(name, content, durable=name != self._trial.validation)
            checkpoints.store_last(last, self._artifacts, self._trial, rotate=self._last_is_usable)
            self._last_is_usable = True

        return store
