"""The driver's way from the end of a search to its last word, without Ray: the service is real, MLflow is away."""

from __future__ import annotations

import errno
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from search_spaces.controls import Controls
from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import Directives, LaunchConfig, TrialState, Winner
from workers import driver
from workers.heartbeat import HeartbeatThread
from workers.search.stop_conditions import Outcome
from workers.search.tune_callbacks import TuneCallback
from workers.search.winner import EvaluationFailedError, StopRequestedError
from workers.state.recorder import Recorder
from workers.tracking import retry
from workers.tracking.cursor import MlflowIds
from workers.tracking.tracker import Tracker

Build = Callable[..., ExperimentSpec]


class WinnerEvaluation:
    """Measures nothing; remembers what it was asked."""

    def __init__(self) -> None:
        self.judged: list[tuple[str, int]] = []

    def evaluate(self, trial: Path, epochs: int, *_: Any, **__: Any) -> tuple[float, float]:
        self.judged.append((trial.name, epochs))
        return 0.5, 0.75


@pytest.fixture
def drive(
    tmp_path: Path,
    service: Any,
    experiment: Build,
    launch: Callable[..., LaunchConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., bool]:
    """`drive(search)`: an attempt whose trials are run by `search(recorder, callback)`."""
    monkeypatch.setattr(retry, "POLL_S", 0.01)
    monkeypatch.setattr(retry, "STOP_GRACE_S", 0.1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def run(search: Callable[[Recorder, TuneCallback], None], **changes: Any) -> bool:
        def searched(
            told: LaunchConfig, spec: ExperimentSpec, recorder: Recorder, callback: TuneCallback
        ) -> WinnerEvaluation:
            search(recorder, callback)
            return WinnerEvaluation()

        monkeypatch.setattr(driver, "_search", searched)
        told = launch(service_url=f"http://127.0.0.1:{service.port}", heartbeat_s=0.6, **changes)
        return driver.drive(told, experiment(searcher={"kind": "random", "num_samples": 1}))

    return run


def one_trial(recorder: Recorder, callback: TuneCallback) -> None:
    recorder.record_suggestion(0, {}, {})
    recorder.record_epoch(0, 1, {"validation_accuracy": 0.5}, (TrialState.COMPLETED, "done"))


@pytest.mark.parametrize(("stop", "phase"), [("cancel", "canceled"), ("pause", "paused")])
def test_orders_are_obeyed_while_mlflow_is_away(
    drive: Callable[..., bool], service: Any, stop: Any, phase: str, tmp_path: Path
) -> None:
    def order() -> None:
        with service.spoken:
            while not any(said.reason.startswith("waiting for MLflow: ") for said in service.heard):
                service.spoken.wait()
        assert service.heard[-1].phase == "finalizing"
        service.answer = (200, "application/json", Directives(slots=1, stop=stop).model_dump_json().encode())

    ordering = threading.Thread(target=order)
    ordering.start()
    assert drive(one_trial)
    ordering.join()
    last = service.heard[-1]
    assert last.phase == phase
    assert last.reason == f"{stop} ordered; MLflow was away: what it lacks is kept in the journal"
    again = Recorder(tmp_path / "journal.jsonl", ExperimentSpec(name="x").objective, 2)
    assert (again.table.trials[0].state, again.table.winner) == ("COMPLETED", None)
    again.close()


def test_the_last_word_names_the_controls_of_the_ending(
    drive: Callable[..., bool], service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = Controls(num_samples=5)

    def finish(*_: Any) -> None:
        with service.spoken:  # more is asked for while the driver finishes
            service.answer = (200, "application/json", Directives(slots=1, controls=more).model_dump_json().encode())
            heard = len(service.heard)
            assert service.spoken.wait_for(lambda: len(service.heard) > heard, 10)

    monkeypatch.setattr(driver, "_finalize_winner", finish)
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

    def noted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if threading.current_thread() is threading.main_thread():  # the tracker's own may close it once more
                done.append(name)
            return real(*given, **named)

        return call

    monkeypatch.setattr(Tracker, "close", noted("close", Tracker.close))
    monkeypatch.setattr(HeartbeatThread, "send_final", noted("last", HeartbeatThread.send_final))
    monkeypatch.setattr(driver, "_illustrate", noted("pictures", lambda *_: None))
    monkeypatch.setattr(driver, "_finalize_winner", lambda *_: winner if crowned else None)
    monkeypatch.setattr(driver, "_close", lambda *_: None)
    assert drive(one_trial)
    assert done == (["last", "pictures", "close"] if crowned else ["close", "last"])


@pytest.mark.parametrize("behind", [False, True], ids=["itself", "behind Tune's error"])
def test_a_full_disk_blocks(drive: Callable[..., bool], service: Any, behind: bool) -> None:
    def fill(recorder: Recorder, callback: TuneCallback) -> None:
        full = OSError(errno.ENOSPC, "No space left on device", "/x/experiment_state.json")
        if behind:
            raise RuntimeError("Traceback\nRuntimeError: saving failed") from full
        raise full

    assert not drive(fill)
    last = service.heard[-1]
    assert (last.phase, last.blocked) == ("paused", True)
    assert last.reason.startswith("the disk is full: ")


def never(*_: Any) -> None:
    raise AssertionError("searched")


def test_a_disk_that_is_full_at_the_beginning_blocks(
    drive: Callable[..., bool], service: Any, small_disk: Path
) -> None:
    with (small_disk / "filler").open("wb", buffering=0) as file:
        assert file.write(bytes(2**21)) < 2**21
    assert drive(never, storage=str(small_disk))
    last = service.heard[-1]
    assert (last.phase, last.blocked, last.trials) == ("paused", True, [])
    assert last.reason.startswith("the disk is full: the journal cannot be opened: ")
    (small_disk / "filler").unlink()
    Recorder(small_disk / "journal.jsonl", ExperimentSpec(name="x").objective, 2).close()


def test_a_journal_that_cannot_be_opened_is_one_attempts_failure(
    drive: Callable[..., bool], service: Any, tmp_path: Path
) -> None:
    (tmp_path / "journal.jsonl").mkdir()
    assert drive(never)
    last = service.heard[-1]
    assert (last.phase, last.blocked) == ("paused", False)
    assert last.reason.startswith("the journal cannot be opened: ")


def test_who_comes_after_its_successor_says_nothing(drive: Callable[..., bool], service: Any, tmp_path: Path) -> None:
    Recorder(tmp_path / "journal.jsonl", ExperimentSpec(name="x").objective, 2).close()
    assert not drive(never, attempt=1)
    assert service.heard == []


def test_no_trial_is_told_as_running_when_the_driver_has_failed(drive: Callable[..., bool], service: Any) -> None:
    def fail(recorder: Recorder, callback: TuneCallback) -> None:
        for number in range(3):
            recorder.record_suggestion(number, {}, {})
        for number in range(2):
            recorder.mark_started(number)
        recorder.mark_slot_taken(0)
        raise OSError(errno.ENOSPC, "No space left on device")

    assert not drive(fail)
    told = {line.trial: line.state for said in service.heard for line in said.trials}
    assert told == {0: "PAUSED", 1: "PENDING", 2: "PENDING"}


def test_a_source_that_is_gone_blocks(drive: Callable[..., bool], service: Any, tmp_path: Path) -> None:
    assert not drive(never, source=str(tmp_path / "gone"))
    last = service.heard[-1]
    assert (last.phase, last.blocked) == ("paused", True)
    assert last.reason.startswith(f"the trials to begin with cannot be read: no journal in {tmp_path / 'gone'}: ")


def test_who_is_overtaken_in_the_journal_has_no_last_word(
    drive: Callable[..., bool], service: Any, tmp_path: Path
) -> None:
    """Before the service has said so."""

    def overtaken(recorder: Recorder, callback: TuneCallback) -> None:
        one_trial(recorder, callback)
        Recorder(tmp_path / "journal.jsonl", ExperimentSpec(name="x").objective, 2).close()

    assert not drive(overtaken)
    assert "completed" not in {said.phase for said in service.heard}
    assert "paused" not in {said.phase for said in service.heard}


def test_another_error_is_one_of_this_attempt(drive: Callable[..., bool], service: Any) -> None:
    def fail(recorder: Recorder, callback: TuneCallback) -> None:
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
    before = Recorder(source / "journal.jsonl", experiment().objective)
    one_trial(before, Any)
    before.close()
    seen: list[Any] = []

    def look(recorder: Recorder, callback: TuneCallback) -> None:
        seen.append((recorder.table.trials[0].source, callback.asha.rungs()[1]))
        raise ValueError("enough")

    for attempt in (1, 2):
        drive(look, attempt=attempt, source=str(source))
    assert seen == [("older/0", {0: 0.5})] * 2
    assert [line.trial for said in service.heard for line in said.trials] == [0, 0]


def test_a_winner_stays_until_a_better_trial_is_found(
    tmp_path: Path, launch: Callable[..., LaunchConfig], open_recorder: Callable[..., Recorder]
) -> None:
    class Tracker:
        def finish(self) -> None:
            """All is told."""

        def register(self, folder: Path, winner: Winner) -> str:
            return f"models:/x/{winner.trial}"

    recorder, finalist = open_recorder(), WinnerEvaluation()
    waiting = retry.Retrier(lambda: False, lambda: 0.0, lambda why: None, lambda error: 0.0)
    tracker: Any = Tracker()

    def crown() -> Winner | None:
        judging: Any = finalist
        return driver._finalize_winner(launch(), recorder, tracker, judging, waiting, 3)

    assert crown() is None
    one_trial(recorder, Any)
    first = crown()
    assert first == Winner(trial=0, value=0.5, test_accuracy=0.75, test_loss=0.5, model_uri="models:/x/0")
    for number, value in ((1, 0.4), (2, 0.6)):
        recorder.record_suggestion(number, {}, {})
        recorder.record_epoch(number, 1, {"validation_accuracy": value})
        recorder.record_epoch(number, 2, {"validation_accuracy": 0.3}, (TrialState.COMPLETED, "done"))
        winner = crown()
        assert winner is not None
        assert winner.trial == (2 if number == 2 else 0)
    assert finalist.judged == [("00000", 1), ("00002", 1)]


def test_a_test_loss_that_is_not_finite_is_left_out(
    launch: Callable[..., LaunchConfig], open_recorder: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    summaries: list[dict[str, float]] = []

    class Tracker:
        def finish(self) -> None:
            """All is told."""

        def register(self, folder: Path, winner: Winner) -> str:
            return "models:/x/1"

        def ids(self) -> MlflowIds:
            return MlflowIds("1", "parent", {0: "run-0"})

        def end_parent_run(self, status: str, summary: dict[str, float], *_: Any) -> None:
            summaries.append(summary)

    monkeypatch.setattr(WinnerEvaluation, "evaluate", lambda *_, **__: (math.inf, 0.75))
    recorder, tracker, finalist = open_recorder(), cast(Any, Tracker()), cast(Any, WinnerEvaluation())
    one_trial(recorder, Any)
    waiting = retry.Retrier(lambda: False, lambda: 0.0, lambda why: None, lambda error: 0.0)
    winner = driver._finalize_winner(launch(), recorder, tracker, finalist, waiting, 3)
    assert winner == open_recorder(2).table.winner == Winner(
        trial=0, value=0.5, test_accuracy=0.75, test_loss=None, model_uri="models:/x/1"
    )  # fmt: skip
    driver._close(tracker, recorder, Outcome(), winner, waiting)
    assert summaries == [{"trials_completed": 1, "best_value": 0.5, "best_trial": 0, "test_accuracy": 0.75}]


def test_what_tune_left_is_removed(tmp_path: Path, launch: Callable[..., LaunchConfig]) -> None:
    for name in ("tune-a1/trial", "tune-a12", "trials/00000"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "tune-a1/trial/result.json").write_text("{}")
    driver._sweep(launch(attempt=13))
    assert [path.name for path in tmp_path.iterdir()] == ["trials"]


def test_what_a_later_driver_uses_is_left(tmp_path: Path, launch: Callable[..., LaunchConfig]) -> None:
    for attempt in range(1, 5):
        (tmp_path / f"tune-a{attempt}").mkdir()
    driver._sweep(launch(attempt=2))
    assert {path.name for path in tmp_path.iterdir()} == {"tune-a3", "tune-a4"}


def test_a_folder_without_what_the_service_knows_is_not_written(
    drive: Callable[..., bool], service: Any, tmp_path: Path
) -> None:
    assert drive(never, trials=3)
    last = service.heard[-1]
    assert (last.phase, last.blocked, last.trials) == ("paused", True, [])
    assert (
        last.reason
        == f"no journal in {tmp_path}, though 3 trials are known: is it the right storage, and is it mounted?"
    )
    assert list(tmp_path.glob("journal*")) == []


def test_trials_that_the_journal_lost_are_told(
    drive: Callable[..., bool], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(recorder: Recorder, callback: TuneCallback) -> None:
        raise ValueError("enough")

    before = Recorder(tmp_path / "journal.jsonl", ExperimentSpec(name="x").objective)
    one_trial(before, Any)
    before.close()
    drive(fail, attempt=2, trials=3)
    assert "2 of 3 trials were lost with the journal's end: proposed again" in caplog.text
    caplog.clear()
    drive(fail, attempt=3, trials=1)
    assert "were lost" not in caplog.text


@pytest.mark.parametrize(
    ("raised", "order", "phase", "reason"),
    [
        (EvaluationFailedError("it was lost"), None, "completed", "it was lost"),
        (StopRequestedError(), "cancel", "canceled", "cancel ordered"),
        (StopRequestedError(), "pause", "paused", "pause ordered"),
    ],
)
def test_a_winner_that_is_not_measured_is_none(
    drive: Callable[..., bool],
    service: Any,
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    order: Any,
    phase: str,
    reason: str,
) -> None:
    closed: list[str] = []

    def evaluate(
        self: WinnerEvaluation, *_: Any, max_restarts: int, ordered: Callable[[], bool]
    ) -> tuple[float, float]:
        assert max_restarts == 3
        if order:
            assert not ordered()
            service.answer = (200, "application/json", Directives(slots=1, stop=order).model_dump_json().encode())
            while not ordered():
                with service.spoken:
                    assert service.spoken.wait(10)
        raise raised

    def close(tracker: Any, recorder: Recorder, over: Outcome, winner: Winner | None, waiting: Any) -> None:
        assert winner is None
        closed.append(over.phase)

    monkeypatch.setattr(WinnerEvaluation, "evaluate", evaluate)
    monkeypatch.setattr(driver, "_close", close)
    assert drive(one_trial)
    last = service.heard[-1]
    assert (last.phase, last.reason, last.winner) == (phase, reason, None)
    assert closed == ([] if phase == "paused" else [phase])
