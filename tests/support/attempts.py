"""Stand-ins for what an attempt at an experiment works with: the winner's evaluation and MLflow."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search_spaces.experiment import ExperimentSpec
from search_spaces.layout import ExperimentFolder
from search_spaces.protocol import FINAL_PHASES, LaunchConfig, Winner
from workers.tracking.mlflow_ids import MlflowIds
from workers.tracking.summary import Summary
from workers.winner.evaluation import WinnerScore

SCORE = WinnerScore(0.5, 0.75)
AFTER = " after the final heartbeat"


class Calls:
    """The calls of the stand-ins in their order, and whether the service had the final heartbeat by then."""

    def __init__(self, service: Any) -> None:
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
        self, number: int, epochs: int, launch: LaunchConfig, *, max_restarts: int, stop_requested: Callable[[], bool]
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

    def draw_plots(self, spec: ExperimentSpec, launch: LaunchConfig, timeout_s: float) -> None:
        if self.calls:
            self.calls.note("plots")
        ExperimentFolder(Path(launch.storage)).plots.mkdir(exist_ok=True)


class MemoryTracking:
    """An MLflow that answers at once."""

    answered_at = 0.0

    def __init__(self, calls: Calls, numbers: Callable[[], set[int]]) -> None:
        self._calls = calls
        self._numbers = numbers
        self._closed = False
        self.summary: dict[str, float] = {}
        self.tags: dict[str, str] = {}
        self.status = ""

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

    def register(self, folder: Path, winner: Winner) -> str:
        self._calls.note("register")
        return f"models:/x/{winner.trial}"

    def end_parent_run(self, summary: Summary) -> None:
        self.status, self.summary, self.tags = summary.status, dict(summary.metrics), dict(summary.tags)

    def log_folder(self, folder: Path) -> None:
        self._calls.note(f"log {folder.name}")
