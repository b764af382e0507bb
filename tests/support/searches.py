"""Searches: one attempt of a driver without Ray, for the tests of what meets Tune's loop."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import cloudpickle
from ray.tune.schedulers import TrialScheduler

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import Directives
from workers.search.searcher import Searcher
from workers.search.tune_callbacks import TuneCallback
from workers.state.recorder import Recorder


class Tune:
    """The part of Tune's controller that the callback meets, driving the same hooks in the same order."""

    def __init__(self, callback: TuneCallback, searcher: Searcher) -> None:
        self._callback, self._searcher = callback, searcher
        self.live: list[Any] = []
        self.started = 0

    def get_live_trials(self) -> list[Any]:
        return self.live

    def start(self, waits: bool = False) -> Any:
        """A trial that is handed out, and takes a slot unless it `waits` for one."""
        self.started += 1
        name = f"t{self.started}"
        config = self._searcher.suggest(name)
        if not isinstance(config, dict):
            return config
        trial = SimpleNamespace(
            trial_id=name, config=config, status="PENDING", error_file=None, pickled_error_file=None
        )
        if not waits:
            self._callback.on_trial_start(0, [], trial)
            trial.status = "RUNNING"
        self.live.append(trial)
        return trial

    def report(self, trial: Any, epoch: int, value: float, **more: Any) -> str:
        result = {"epoch": epoch, "validation_accuracy": value, "epoch_seconds": 1.0, "diverged": False} | more
        result["reported"] = ["epoch_seconds", "validation_accuracy"]
        decision = self._callback.asha.on_trial_result(self, trial, result)
        self._callback.on_trial_result(0, [], trial, result)
        if decision == TrialScheduler.STOP:
            self.stop_trial(trial)
        return decision

    def finish(self, trial: Any, value: float) -> None:
        """All epochs; those that were told before are told again."""
        epochs = itertools.count(1)
        while self.report(trial, next(epochs), value) != TrialScheduler.STOP:
            pass

    def fail(self, trial: Any, error: BaseException | None = None, folder: Path | None = None) -> None:
        """As Tune does it: the exception is pickled, its text is added to another file."""
        if error is not None and folder is not None:
            trial.pickled_error_file, trial.error_file = str(folder / "error.pkl"), str(folder / "error.txt")
            Path(trial.pickled_error_file).write_bytes(cloudpickle.dumps(error))  # type: ignore[no-untyped-call]
            Path(trial.error_file).write_text(f"Failure # 1 (occurred at ...)\n{error}\n")
        self.live.remove(trial)
        self._searcher.on_trial_complete(trial.trial_id, error=True)
        self._callback.on_trial_error(0, [], trial)

    def stop_trial(self, trial: Any) -> None:
        self._searcher.on_trial_complete(trial.trial_id)
        self._callback.on_trial_complete(0, [], trial)
        self.live.remove(trial)


class Service:
    """What the heartbeat knows."""

    def __init__(self) -> None:
        self.orders = Directives(slots=4)
        self.fenced = False
        self.changes = 0

    def changed(self) -> None:
        self.changes += 1


class Search:
    """One attempt, without Ray."""

    def __init__(self, spec: ExperimentSpec, recorder: Recorder, folder: Path) -> None:
        self.service = Service()
        self.recorder = recorder
        self.callback = TuneCallback(
            spec, recorder, lambda: self.service.orders, lambda: self.service.fenced, self.service.changed
        )
        self.searcher = Searcher(
            spec, recorder, folder / "trials", {}, self.callback.num_samples, self.callback.slots, lambda: None
        )
        self.callback.attach(self.searcher)
        self.tune = Tune(self.callback, self.searcher)

    def states(self) -> list[str]:
        return [trial.state for trial in self.recorder.table.trials.values()]
