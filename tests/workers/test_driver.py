"""The driver's way from the end of a search to its last word, without Ray: the service is real, MLflow is away."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search_spaces.controls import Controls
from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import Launch, Orders, TrialState, Winner
from workers import driver, patience
from workers.conductor import Conductor
from workers.heartbeat import Heart
from workers.progress import Progress
from workers.tracking import Tracker

Build = Callable[..., ExperimentSpec]


class Finalist:
    """Measures nothing; remembers what it was asked."""

    def __init__(self) -> None:
        self.judged: list[tuple[str, int]] = []

    def judge(self, trial: Path, epochs: int, *_: Any) -> tuple[float, float]:
        self.judged.append((trial.name, epochs))
        return 0.5, 0.75


@pytest.fixture
def drive(
    tmp_path: Path,
    service: Any,
    experiment: Build,
    launch: Callable[..., Launch],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., bool]:
    """`drive(search)`: an attempt whose trials are run by `search(progress, conductor)`."""
    monkeypatch.setattr(patience, "POLL_S", 0.01)
    monkeypatch.setattr(patience, "ORDERED_S", 0.1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def run(search: Callable[[Progress, Conductor], None], **changes: Any) -> bool:
        def searched(told: Launch, spec: ExperimentSpec, progress: Progress, conductor: Conductor) -> Finalist:
            search(progress, conductor)
            return Finalist()

        monkeypatch.setattr(driver, "_search", searched)
        told = launch(service_url=f"http://127.0.0.1:{service.port}", heartbeat_s=0.6, **changes)
        return driver.drive(told, experiment(searcher={"kind": "random", "num_samples": 1}))

    return run


def one_trial(progress: Progress, conductor: Conductor) -> None:
    progress.suggested(0, {}, {})
    progress.epoch(0, 1, {"validation_accuracy": 0.5}, (TrialState.COMPLETED, "done"))


@pytest.mark.parametrize(("stop", "phase"), [("cancel", "canceled"), ("pause", "paused")])
def test_orders_are_obeyed_while_mlflow_is_away(
    drive: Callable[..., bool], service: Any, stop: Any, phase: str, tmp_path: Path
) -> None:
    def order() -> None:
        with service.spoken:
            while not any(said.reason.startswith("waiting for MLflow: ") for said in service.heard):
                service.spoken.wait()
        assert service.heard[-1].phase == "finalizing"
        service.answer = (200, "application/json", Orders(slots=1, stop=stop).model_dump_json().encode())

    ordering = threading.Thread(target=order)
    ordering.start()
    assert drive(one_trial)
    ordering.join()
    last = service.heard[-1]
    assert last.phase == phase
    assert last.reason == f"{stop} ordered; MLflow was away: what it lacks is kept in the journal"
    again = Progress(tmp_path / "journal.jsonl", ExperimentSpec(name="x").objective, 2)
    assert (again.trials[0].state, again.winner) == ("COMPLETED", None)
    again.close()


def test_the_last_word_names_the_controls_of_the_ending(
    drive: Callable[..., bool], service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = Controls(num_samples=5)

    def finish(*_: Any) -> None:
        with service.spoken:  # more is asked for while the driver finishes
            service.answer = (200, "application/json", Orders(slots=1, controls=more).model_dump_json().encode())
            heard = len(service.heard)
            assert service.spoken.wait_for(lambda: len(service.heard) > heard, 10)

    monkeypatch.setattr(driver, "_crown", finish)
    monkeypatch.setattr(driver, "_close", finish)
    assert drive(one_trial)
    last = service.heard[-1]
    assert (last.phase, last.controls) == ("completed", Controls(num_samples=1))


@pytest.mark.parametrize("crowned", [False, True])
def test_mlflow_is_told_nothing_after_the_last_word_but_a_winners_pictures(
    drive: Callable[..., bool], monkeypatch: pytest.MonkeyPatch, crowned: bool
) -> None:
    done: list[str] = []
    winner = Winner(trial=0, value=0.5, test_accuracy=0.75, test_loss=0.5)
    for owner, name in ((Tracker, "close"), (Heart, "last"), (driver, "_illustrate")):

        def noted(*given: Any, name: str = name, real: Any = getattr(owner, name), **named: Any) -> Any:
            done.append(name)
            return None if name == "_illustrate" else real(*given, **named)

        monkeypatch.setattr(owner, name, noted)
    monkeypatch.setattr(driver, "_crown", lambda *_: winner if crowned else None)
    monkeypatch.setattr(driver, "_close", lambda *_: None)
    assert drive(one_trial)
    assert done == (["last", "_illustrate", "close"] if crowned else ["close", "last"])


@pytest.mark.parametrize("behind", [False, True], ids=["itself", "behind Tune's error"])
def test_a_full_disk_blocks(drive: Callable[..., bool], service: Any, behind: bool) -> None:
    def fill(progress: Progress, conductor: Conductor) -> None:
        full = OSError(errno.ENOSPC, "No space left on device", "/x/experiment_state.json")
        if behind:
            raise RuntimeError("Traceback\nRuntimeError: saving failed") from full
        raise full

    assert not drive(fill)
    last = service.heard[-1]
    assert (last.phase, last.blocked) == ("paused", True)
    assert last.reason.startswith("the disk is full: ")


def test_another_error_is_one_of_this_attempt(drive: Callable[..., bool], service: Any) -> None:
    def fail(progress: Progress, conductor: Conductor) -> None:
        raise ValueError("no cluster")

    assert not drive(fail)
    last = service.heard[-1]
    assert (last.phase, last.blocked, last.reason) == ("paused", False, "ValueError: no cluster")


def test_an_attempt_begins_with_the_trials_of_its_source(
    drive: Callable[..., bool], service: Any, tmp_path: Path, experiment: Build
) -> None:
    source = tmp_path / "older"
    (source / "trials" / "00000").mkdir(parents=True)
    (source / "trials" / "00000" / "spec.json").write_text("{}")
    before = Progress(source / "journal.jsonl", experiment().objective)
    one_trial(before, Any)
    before.close()
    seen: list[Any] = []

    def look(progress: Progress, conductor: Conductor) -> None:
        seen.append((progress.trials[0].source, conductor.asha.rungs()[1]))
        raise ValueError("enough")

    for attempt in (1, 2):
        drive(look, attempt=attempt, source=str(source))
    assert seen == [("older/0", {0: 0.5})] * 2
    assert [line.trial for said in service.heard for line in said.trials] == [0, 0]


def test_a_winner_stays_until_a_better_trial_is_found(
    tmp_path: Path, launch: Callable[..., Launch], open_progress: Callable[..., Progress]
) -> None:
    class Tracker:
        def finish(self) -> None:
            """All is told."""

        def register(self, folder: Path, winner: Winner) -> str:
            return f"models:/x/{winner.trial}"

    progress, finalist = open_progress(), Finalist()
    waiting = patience.Patience(lambda: False, lambda: 0.0, lambda why: None, lambda error: 0.0)
    tracker: Any = Tracker()

    def crown() -> Winner | None:
        judging: Any = finalist
        return driver._crown(launch(), progress, tracker, judging, waiting)

    assert crown() is None
    one_trial(progress, Any)
    first = crown()
    assert first == Winner(trial=0, value=0.5, test_accuracy=0.75, test_loss=0.5, model_uri="models:/x/0")
    for number, value in ((1, 0.4), (2, 0.6)):
        progress.suggested(number, {}, {})
        progress.epoch(number, 1, {"validation_accuracy": value})
        progress.epoch(number, 2, {"validation_accuracy": 0.3}, (TrialState.COMPLETED, "done"))
        winner = crown()
        assert winner is not None
        assert winner.trial == (2 if number == 2 else 0)
    assert finalist.judged == [("00000", 1), ("00002", 2)]


def test_what_tune_left_is_removed(tmp_path: Path, launch: Callable[..., Launch]) -> None:
    for name in ("tune-a1/trial", "tune-a12", "trials/00000"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "tune-a1/trial/result.json").write_text("{}")
    driver._sweep(launch(attempt=13))
    assert [path.name for path in tmp_path.iterdir()] == ["trials"]
