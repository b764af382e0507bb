"""Attempts at an experiment with stand-ins for the trials, for the winner's evaluation and for MLflow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search_spaces.experiment import ExperimentSpec
from search_spaces.layout import ExperimentFolder
from search_spaces.protocol import FINAL_PHASES, Directives, LaunchConfig, Packing, TrialState, Winner
from search_spaces.storage.folder import FolderStorage
from tests.support.workers import HeartbeatService
from workers.attempt import ExperimentAttempt, Tracking
from workers.search.tune_callbacks import TuneCallback
from workers.state.recorder import Recorder
from workers.tracking.mlflow_ids import MlflowIds
from workers.tracking.summary import Summary
from workers.tracking.tracker import Tracker
from workers.winner.evaluation import WinnerScore

SCORE = WinnerScore(0.5, 0.75)
AFTER = " after the final heartbeat"


class Calls:
    """The calls of the stand-ins in their order, and whether the service had the final heartbeat by then."""

    def __init__(self, service: HeartbeatService) -> None:
        self._service = service
        self.noted: list[str] = []

    def note(self, call: str) -> None:
        heard = self._service.heard
        is_final = bool(heard) and heard[-1].phase in FINAL_PHASES
        self.noted.append(f"{call}{AFTER if is_final else ''}")


@dataclass
class ScriptedEvaluation:
    """Evaluates to a fixed score. Raises `error` instead, with `waits_for_stop` not before a stop is requested."""

    score: WinnerScore = SCORE
    error: Exception | None = None
    waits_for_stop: Callable[[], None] | None = None
    evaluated: list[tuple[int, int]] = field(default_factory=list)
    calls: Calls | None = None

    def prepare(self) -> None:
        """There is nothing to start."""

    def evaluate(
        self,
        number: int,
        epochs: int,
        launch: LaunchConfig,
        agreed: Mapping[str, str] | None = None,
        *,
        max_restarts: int,
        stop_requested: Callable[[], bool],
    ) -> WinnerScore:
        assert max_restarts == 3
        self.evaluated.append((number, epochs))
        if self.waits_for_stop:
            assert not stop_requested()
            self.waits_for_stop()
            while not stop_requested():
                threading.Event().wait(0.01)
        if self.error:
            raise self.error
        ExperimentFolder(Path(launch.storage)).model.mkdir(exist_ok=True)
        return self.score

    def make_insight(self, spec: ExperimentSpec, launch: LaunchConfig, timeout_s: float) -> None:
        """There is nothing to report."""

    def draw_plots(self, spec: ExperimentSpec, launch: LaunchConfig, timeout_s: float) -> None:
        if self.calls:
            self.calls.note("plots")
        ExperimentFolder(Path(launch.storage)).plots.mkdir(exist_ok=True)


@dataclass
class ScriptedProbe:
    """Finds what is given; None as if the attempt had to stop."""

    found: Packing | None = None
    measured: int = 0

    def measure(
        self,
        spec: ExperimentSpec,
        launch: LaunchConfig,
        directives: Callable[[], Directives],
        stop_requested: Callable[[], bool],
    ) -> Packing | None:
        self.measured += 1
        return self.found


class MemoryTracking:
    """An MLflow that answers at once."""

    answered_at = 0.0
    behind_s = 0.0

    def __init__(self, calls: Calls, numbers: Callable[[], set[int]]) -> None:
        self._calls = calls
        self._numbers = numbers
        self._closed = False
        self.summary: dict[str, float] = {}
        self.tags: dict[str, str] = {}
        self.status = ""
        self.remarks: tuple[str, ...] = ()

    def ids(self) -> MlflowIds:
        return MlflowIds("1", "parent", {number: f"run-{number}" for number in self._numbers()})

    def start(self) -> None: ...

    def wake(self) -> None: ...

    def stop(self) -> None: ...

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._calls.note("close")

    def finish(self) -> None:
        self._calls.note("finish")

    def pause(self, reason: str) -> None:
        self.status, self.tags = "SCHEDULED", {"rung.reason": reason}

    def register(self, folder: Path, winner: Winner) -> str:
        self._calls.note("register")
        return f"models:/x/{winner.trial}"

    def end_parent_run(self, summary: Summary) -> None:
        self.status, self.summary, self.tags = summary.status, dict(summary.metrics), dict(summary.tags)
        self.remarks = summary.remarks

    def log_folder(self, folder: Path) -> None:
        self._calls.note(f"log {folder.name}")


#: Runs the trials of an attempt.
Trials = Callable[[Recorder, TuneCallback], None]


@dataclass
class Attempted:
    """What became of an attempt."""

    succeeded: bool
    evaluation: ScriptedEvaluation
    tracking: MemoryTracking
    calls: list[str]
    specs: list[ExperimentSpec]  # with which trials were run


def attempt_at(
    service: HeartbeatService,
    config: LaunchConfig,
    spec: ExperimentSpec,
    search: Trials,
    *,
    mlflow: bool = True,
    evaluation: ScriptedEvaluation | None = None,
    probe: ScriptedProbe | None = None,
) -> Attempted:
    """Run one attempt whose trials are run by `search(recorder, callback)`, with an unreachable MLflow on request."""
    seen: list[Recorder] = []
    specs: list[ExperimentSpec] = []
    calls = Calls(service)

    def run_trials(
        launch: LaunchConfig, spec: ExperimentSpec, recorder: Recorder, callback: TuneCallback, on_last: object
    ) -> None:
        seen.append(recorder)
        specs.append(spec)
        search(recorder, callback)

    scripted = evaluation or ScriptedEvaluation()
    scripted.calls = calls
    memory = MemoryTracking(calls, lambda: seen[0].numbers() if seen else set())

    def track(superseded: Callable[[], bool]) -> Tracking:
        storage = FolderStorage(Path(config.storage))
        return memory if mlflow else Tracker(config, spec, storage, superseded=superseded)

    asked = probe or ScriptedProbe()
    succeeded = ExperimentAttempt(config, spec, run_trials, asked, lambda _: scripted, track).run()
    return Attempted(succeeded, scripted, memory, calls.noted, specs)


def directives(**fields: Any) -> tuple[int, str, bytes]:
    """An answer of the service."""
    return 200, "application/json", Directives(**({"slots": 1} | fields)).model_dump_json().encode()


def one_trial(recorder: Recorder, callback: TuneCallback) -> None:
    recorder.record_suggestion(0, {}, {})
    recorder.record_epoch(0, 1, {"validation_accuracy": 0.5}, (TrialState.COMPLETED, "done"))


def no_trials(recorder: Recorder, callback: TuneCallback) -> None:
    raise AssertionError("the search must not begin")


def journal_of(folder: Path, attempt: int = 9) -> Recorder:
    """The experiment's journal as a later attempt opens it."""
    return Recorder(FolderStorage(folder).journal, ExperimentSpec(name="x").objective, attempt)
