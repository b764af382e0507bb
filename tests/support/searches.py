"""Searches: one attempt of a driver without Ray, for tests of the code that Tune's loop calls."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import cloudpickle
from ray.tune.schedulers import TrialScheduler

from search_spaces.early_stopping.base import EarlyStoppingSpec
from search_spaces.experiment import ExperimentSpec
from search_spaces.layout import ExperimentFolder, TrialFolder
from search_spaces.protocol import Directives
from search_spaces.storage.folder import FolderStorage
from workers.fence import Fence
from workers.search.checkpoint_keeper import CheckpointKeeper
from workers.search.policy import SearchPolicy
from workers.search.tune_callbacks import TuneCallback
from workers.search.tune_searcher import TuneSearcher
from workers.search.verdicts import Verdicts
from workers.state.recorder import Recorder


class Tune:
    """The part of Tune's controller that calls the callback: it calls the same hooks in the same order."""

    def __init__(self, callback: TuneCallback, searcher: TuneSearcher) -> None:
        self._callback, self._searcher = callback, searcher
        self.live: list[Any] = []
        self._tune_controller = SimpleNamespace(_staged_trials=[])  # the private parts that are used
        self.started = 0

    def get_live_trials(self) -> list[Any]:
        return self.live

    def start(self, waits: bool = False) -> Any:
        """The next trial. It takes a slot unless it `waits` for one."""
        self.started += 1
        name = f"t{self.started}"
        config = self._searcher.suggest(name)
        if not isinstance(config, dict):
            return config
        trial = SimpleNamespace(
            trial_id=name, config=config, status="PENDING", error_file=None, pickled_error_file=None
        )
        trial.temporary_state = SimpleNamespace(ray_actor=name)
        if not waits:
            self._callback.on_trial_start(0, [], trial)
            trial.status = "RUNNING"
        self.live.append(trial)
        return trial

    def report(self, trial: Any, epoch: int, value: float, **more: Any) -> str:
        result: dict[str, Any] = {"epoch": epoch, "validation_accuracy": value, "epoch_seconds": 1.0, "diverged": False}
        result |= {"resumed_after": epoch} | more
        result["reported"] = ["epoch_seconds", "validation_accuracy", *({"validation_loss"} & more.keys())]
        decision = self._callback.scheduler.on_trial_result(self, trial, result)
        self._callback.on_trial_result(0, [], trial, result)
        if decision == TrialScheduler.STOP:
            self.stop_trial(trial)
        return decision

    def finish(self, trial: Any, value: float) -> None:
        """Report every epoch, including those that were reported before."""
        epochs = itertools.count(1)
        while self.report(trial, next(epochs), value) != TrialScheduler.STOP:
            pass

    def fail(self, trial: Any, error: BaseException | None = None, folder: Path | None = None) -> None:
        """Fail a trial as Tune does: pickle the exception into one file, and add its text to another."""
        if error is not None and folder is not None:
            trial.pickled_error_file, trial.error_file = str(folder / "error.pkl"), str(folder / "error.txt")
            Path(trial.pickled_error_file).write_bytes(cloudpickle.dumps(error))
            Path(trial.error_file).write_text(f"Failure # 1 (occurred at ...)\n{error}\n")
        self.live.remove(trial)
        self._searcher.on_trial_complete(trial.trial_id, error=True)
        self._callback.on_trial_error(0, [], trial)

    def stop_trial(self, trial: Any) -> None:
        self._searcher.on_trial_complete(trial.trial_id)
        self._callback.on_trial_complete(0, [], trial)
        self.live.remove(trial)


class Service:
    """The directives of the last heartbeat, and a count of changes to report."""

    def __init__(self) -> None:
        self.directives = Directives(slots=4)
        self.changes = 0

    def changed(self) -> None:
        self.changes += 1


class Search:
    """One attempt, without Ray. `early_stopping` replaces the rule of the spec."""

    def __init__(
        self, spec: ExperimentSpec, recorder: Recorder, folder: Path, early_stopping: EarlyStoppingSpec | None = None
    ) -> None:
        self.service = Service()
        self.fence = Fence()
        self.recorder = recorder
        self.trials = recorder.table.trials
        self.verdicts = Verdicts(
            early_stopping or spec.early_stopping, spec.objective, spec.max_epochs, recorder.table.reports()
        )
        self.folder = ExperimentFolder(folder)
        storage = FolderStorage(folder)
        self.callback = TuneCallback(
            SearchPolicy(spec),
            self.verdicts,
            recorder,
            CheckpointKeeper(storage.artifacts, spec.checkpoints, recorder.table),
            storage,
            lambda: self.service.directives,
            self.fence,
            self.service.changed,
        )
        self.searcher = TuneSearcher(
            spec,
            recorder,
            storage,
            lambda trial: {"slots": trial.slots},
            self.callback.num_samples,
            self.callback.slots,
            lambda: None,
        )
        self.callback.attach(self.searcher)
        self.tune = Tune(self.callback, self.searcher)

    def files(self, trial: Any) -> TrialFolder:
        """Where the files of one of Tune's trials are."""
        return self.folder.trial(trial.config["trial"])

    def states(self) -> list[str]:
        return [trial.state for trial in self.trials.values()]

    def verdict_on_the_worst(self) -> str:
        """The reason to stop the worst possible trial at the first rung: it names the cutoff and the number of trials
        that set it, so it tells what the rule has seen.
        """
        return self.verdicts.after_epoch(UNUSED, 1, {"validation_accuracy": -1e9}).reason


#: A trial number that no search reaches.
UNUSED = 10**6
