"""An attempt at an experiment: its journal, its heartbeats and its result, with stand-ins for trials and the winner.

The service is a real HTTP server; MLflow is unreachable unless a test gives a tracker that answers.
"""

from __future__ import annotations

import errno
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from search_spaces.controls import Controls
from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import Directives, ErrorKind, LaunchConfig, TrialState, Winner
from search_spaces.storage.folder import FolderStorage
from tests.support.attempts import AFTER, Calls, MemoryTracking, ScriptedEvaluation
from tests.support.workers import BuildSpec
from workers.attempt import ExperimentAttempt
from workers.failures.classification import TrialError
from workers.search.tune_callbacks import TuneCallback
from workers.state.recorder import Recorder
from workers.tracking import retry
from workers.tracking.tracker import Tracker
from workers.winner.evaluation import EvaluationFailedError, StopRequestedError, WinnerScore

Trials = Callable[[Recorder, TuneCallback], None]


@dataclass
class Attempted:
    """What `attempt` gives."""

    succeeded: bool
    evaluation: ScriptedEvaluation
    tracking: MemoryTracking
    calls: list[str]


@pytest.fixture
def attempt(
    service: Any, experiment: BuildSpec, launch: Callable[..., LaunchConfig], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Attempted]:
    """`attempt(trials, launch fields)`: one whose trials are run by `trials(recorder, callback)`."""
    monkeypatch.setattr(retry, "POLL_S", 0.01)
    monkeypatch.setattr(retry, "STOP_GRACE_S", 0.1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def run(
        search: Trials, /, *, mlflow: bool = True, evaluation: ScriptedEvaluation | None = None, **fields: Any
    ) -> Attempted:
        seen: list[Recorder] = []
        calls = Calls(service)

        def run_trials(
            launch: LaunchConfig, spec: ExperimentSpec, recorder: Recorder, callback: TuneCallback, on_last: object
        ) -> None:
            seen.append(recorder)
            search(recorder, callback)

        config = launch(service_url=f"http://127.0.0.1:{service.port}", heartbeat_s=0.6, **fields)
        spec = experiment(searcher={"kind": "random", "num_samples": 1})
        scripted = evaluation or ScriptedEvaluation()
        scripted.calls = calls
        memory = MemoryTracking(calls, lambda: seen[0].numbers() if seen else set())

        def track(superseded: Callable[[], bool]) -> Any:
            storage = FolderStorage(Path(config.storage))
            return memory if mlflow else Tracker(config, spec, storage, superseded=superseded)

        succeeded = ExperimentAttempt(config, spec, run_trials, scripted, track).run()
        return Attempted(succeeded, scripted, memory, calls.noted)

    return run


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


def test_a_completed_search_ends_with_a_registered_winner(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    done = attempt(one_trial)
    assert done.succeeded
    winner = Winner(trial=0, value=0.5, test_accuracy=0.75, test_loss=0.5, model_uri="models:/x/0")
    final = service.heard[-1]
    assert (final.phase, final.reason, final.winner) == ("completed", "", winner)
    assert final.controls == Controls(num_samples=1)
    assert done.tracking.status == "FINISHED"
    assert done.tracking.summary == {
        "trials_completed": 1,
        "best_value": 0.5,
        "best_trial": 0,
        "test_accuracy": 0.75,
        "test_loss": 0.5,
    }
    assert done.tracking.tags == {
        "rung.state": "COMPLETED",
        "rung.reason": "",
        "rung.best_trial": "0",
        "rung.best_run_id": "run-0",
        "rung.model": "models:/x/0",
    }
    after = journal_of(tmp_path)
    assert after.table.winner == winner
    after.close()


def test_after_the_final_heartbeat_only_the_plots_of_a_winner_are_logged(attempt: Callable[..., Attempted]) -> None:
    done = attempt(one_trial)
    assert done.calls == ["finish", "register", "finish", f"plots{AFTER}", f"log pictures{AFTER}", f"close{AFTER}"]


def test_without_a_winner_tracking_is_closed_before_the_final_heartbeat(attempt: Callable[..., Attempted]) -> None:
    def diverge(recorder: Recorder, callback: TuneCallback) -> None:
        recorder.record_suggestion(0, {}, {})
        recorder.record_epoch(0, 1, {"validation_accuracy": 0.5}, (TrialState.DIVERGED, "nan"))

    done = attempt(diverge)
    assert done.succeeded
    assert done.calls == ["finish", "close"]
    assert done.evaluation.evaluated == []


def test_plots_that_fail_cost_only_the_plots(
    attempt: Callable[..., Attempted], service: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class WithoutFonts(ScriptedEvaluation):
        def draw_plots(self, *_: Any) -> None:
            raise RuntimeError("no fonts")

    assert attempt(one_trial, evaluation=WithoutFonts()).succeeded
    assert service.heard[-1].phase == "completed"
    assert "no fonts" in caplog.text


def test_a_winner_stays_until_a_better_trial_is_found(attempt: Callable[..., Attempted], service: Any) -> None:
    def add(number: int, value: float) -> Trials:
        def trials(recorder: Recorder, callback: TuneCallback) -> None:
            recorder.record_suggestion(number, {}, {})
            recorder.record_epoch(number, 1, {"validation_accuracy": value})
            recorder.record_epoch(number, 2, {"validation_accuracy": 0.3}, (TrialState.COMPLETED, "done"))

        return trials

    for number, value, evaluated in ((0, 0.5, [(0, 1)]), (1, 0.4, []), (2, 0.6, [(2, 1)])):
        done = attempt(add(number, value), attempt=number + 1)
        assert done.evaluation.evaluated == evaluated
        assert service.heard[-1].winner.trial == (0 if number < 2 else 2)


def test_a_test_loss_that_is_not_finite_is_left_out(attempt: Callable[..., Attempted], service: Any) -> None:
    done = attempt(one_trial, evaluation=ScriptedEvaluation(WinnerScore(math.inf, 0.75)))
    assert service.heard[-1].winner.test_loss is None
    assert "test_loss" not in done.tracking.summary
    assert done.tracking.summary["test_accuracy"] == 0.75


def test_an_evaluation_that_fails_leaves_a_completed_experiment_without_a_winner(
    attempt: Callable[..., Attempted], service: Any
) -> None:
    done = attempt(one_trial, evaluation=ScriptedEvaluation(error=EvaluationFailedError("it was lost")))
    assert done.succeeded
    final = service.heard[-1]
    assert (final.phase, final.reason, final.winner) == ("completed", "it was lost", None)
    assert done.tracking.status == "FINISHED"


@pytest.mark.parametrize(
    ("kind", "reason", "blocked"),
    [
        (ErrorKind.DISK_FULL, "the disk is full: OSError: no space", True),
        (ErrorKind.DATA, "the winner could not be evaluated, DATA: OSError: no space", False),
    ],
)
def test_a_failure_of_the_winners_evaluation_is_reported_in_words(
    attempt: Callable[..., Attempted], service: Any, kind: ErrorKind, reason: str, blocked: bool
) -> None:
    done = attempt(one_trial, evaluation=ScriptedEvaluation(error=TrialError(kind, "OSError: no space")))
    final = service.heard[-1]
    assert (final.phase, final.reason, final.blocked) == ("paused", reason, blocked)
    assert not done.succeeded


@pytest.mark.parametrize(
    ("stop", "phase", "reason", "status"),
    [("cancel", "canceled", "cancel requested", "KILLED"), ("pause", "paused", "pause requested", "")],
)
def test_a_stop_is_obeyed_while_the_winner_is_evaluated(
    attempt: Callable[..., Attempted], service: Any, stop: Any, phase: str, reason: str, status: str
) -> None:
    def request() -> None:
        service.answer = directives(stop=stop)

    done = attempt(one_trial, evaluation=ScriptedEvaluation(error=StopRequestedError(), waits_for_stop=request))
    final = service.heard[-1]
    assert (final.phase, final.reason, final.winner) == (phase, reason, None)
    assert done.tracking.status == status, "a paused experiment has not ended"


@pytest.mark.parametrize(("stop", "phase"), [("cancel", "canceled"), ("pause", "paused")])
def test_a_stop_is_obeyed_while_mlflow_is_unreachable(
    attempt: Callable[..., Attempted], service: Any, stop: Any, phase: str, tmp_path: Path
) -> None:
    def request() -> None:
        with service.spoken:
            while not any(said.reason.startswith("waiting for MLflow: ") for said in service.heard):
                service.spoken.wait()
        assert service.heard[-1].phase == "finalizing"
        service.answer = directives(stop=stop)

    requesting = threading.Thread(target=request)
    requesting.start()
    assert attempt(one_trial, mlflow=False).succeeded
    requesting.join()
    final = service.heard[-1]
    assert final.phase == phase
    assert final.reason.startswith(f"{stop} requested; MLflow ")
    after = journal_of(tmp_path)
    assert (after.table.trials[0].state, after.table.winner) == ("COMPLETED", None)
    after.close()


def test_the_final_heartbeat_has_the_controls_under_which_the_search_ended(
    attempt: Callable[..., Attempted], service: Any
) -> None:
    class Meanwhile(ScriptedEvaluation):
        def evaluate(self, *arguments: Any, **named: Any) -> WinnerScore:
            with service.spoken:  # more is asked for while the winner is evaluated
                service.answer = directives(controls=Controls(num_samples=5))
                heard = len(service.heard)
                assert service.spoken.wait_for(lambda: len(service.heard) > heard, 10)
            return super().evaluate(*arguments, **named)

    assert attempt(one_trial, evaluation=Meanwhile()).succeeded
    final = service.heard[-1]
    assert (final.phase, final.controls) == ("completed", Controls(num_samples=1))


def test_trials_that_remain_end_with_a_canceled_search(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    service.answer = directives(stop="cancel")

    def start(recorder: Recorder, callback: TuneCallback) -> None:
        recorder.record_suggestion(0, {}, {})
        with service.spoken:
            assert service.spoken.wait_for(lambda: service.heard, 10)
        while callback.slots():
            threading.Event().wait(0.01)

    done = attempt(start)
    assert done.succeeded
    assert (service.heard[-1].phase, done.tracking.status) == ("canceled", "KILLED")
    after = journal_of(tmp_path)
    assert (after.table.trials[0].state, after.table.trials[0].stop_reason) == ("CANCELED", "cancel requested")
    after.close()


@pytest.mark.parametrize("behind", [False, True], ids=["itself", "behind Tune's error"])
def test_a_full_disk_blocks_the_experiment(attempt: Callable[..., Attempted], service: Any, behind: bool) -> None:
    def fill(recorder: Recorder, callback: TuneCallback) -> None:
        full = OSError(errno.ENOSPC, "No space left on device", "/x/experiment_state.json")
        if behind:
            raise RuntimeError("Traceback\nRuntimeError: saving failed") from full
        raise full

    assert not attempt(fill).succeeded
    final = service.heard[-1]
    assert (final.phase, final.blocked) == ("paused", True)
    assert final.reason.startswith("the disk is full: ")


def test_a_disk_that_is_full_at_the_start_blocks_the_experiment(
    attempt: Callable[..., Attempted], service: Any, small_disk: Path
) -> None:
    with (small_disk / "filler").open("wb", buffering=0) as file:
        assert file.write(bytes(2**21)) < 2**21
    assert not attempt(no_trials, storage=str(small_disk)).succeeded
    final = service.heard[-1]
    assert (final.phase, final.blocked, final.trials) == ("paused", True, [])
    assert final.reason.startswith("the disk is full: the journal cannot be opened: ")
    (small_disk / "filler").unlink()
    journal_of(small_disk).close()


def test_a_journal_that_cannot_be_opened_fails_the_attempt(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    (tmp_path / "journal.jsonl").mkdir()
    assert not attempt(no_trials).succeeded
    final = service.heard[-1]
    assert (final.phase, final.blocked) == ("paused", False)
    assert final.reason.startswith("the journal cannot be opened: ")


def test_a_folder_without_the_known_trials_is_not_written(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    assert not attempt(no_trials, trials=3).succeeded
    final = service.heard[-1]
    assert (final.phase, final.blocked, final.trials) == ("paused", True, [])
    assert (
        final.reason
        == f"no journal in {tmp_path}, but 3 trials are known: is this storage the right one, and is it mounted?"
    )
    assert list(tmp_path.glob("journal*")) == []


def test_trials_that_the_journal_lost_are_logged(
    attempt: Callable[..., Attempted], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def nothing(recorder: Recorder, callback: TuneCallback) -> None:
        """All known trials have ended."""

    before = journal_of(tmp_path, 1)
    before.record_suggestion(0, {}, {})
    before.record_end(0, TrialState.COMPLETED, "done")
    before.close()
    attempt(nothing, attempt=2, trials=3)
    assert "2 of 3 trials were lost with the journal's end: proposed again" in caplog.text
    caplog.clear()
    attempt(nothing, attempt=3, trials=1)
    assert "were lost" not in caplog.text


def test_another_error_fails_only_this_attempt(attempt: Callable[..., Attempted], service: Any) -> None:
    def fail(recorder: Recorder, callback: TuneCallback) -> None:
        raise ValueError("Traceback\n  ...\nno cluster")

    assert not attempt(fail).succeeded
    final = service.heard[-1]
    assert (final.phase, final.blocked, final.reason) == ("paused", False, "ValueError: no cluster")


def test_a_search_that_was_interrupted_is_paused(attempt: Callable[..., Attempted], service: Any) -> None:
    def suggest(recorder: Recorder, callback: TuneCallback) -> None:
        recorder.record_suggestion(0, {}, {})

    assert not attempt(suggest).succeeded
    final = service.heard[-1]
    assert (final.phase, final.reason) == ("paused", "the search was interrupted: 0 of 1 trials have ended")


def test_no_trial_is_reported_as_running_after_a_failure(attempt: Callable[..., Attempted], service: Any) -> None:
    def fail(recorder: Recorder, callback: TuneCallback) -> None:
        for number in range(3):
            recorder.record_suggestion(number, {}, {})
        for number in range(2):
            recorder.mark_started(number)
        recorder.mark_slot_taken(0)
        raise OSError(errno.ENOSPC, "No space left on device")

    assert not attempt(fail).succeeded
    reported = {update.trial: update.state for said in service.heard for update in said.trials}
    assert reported == {0: "PAUSED", 1: "PENDING", 2: "PENDING"}


def test_an_attempt_that_starts_after_its_successor_reports_nothing(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    journal_of(tmp_path, 2).close()
    assert not attempt(no_trials, attempt=1).succeeded
    assert service.heard == []


def test_an_attempt_that_is_superseded_in_the_journal_sends_no_final_heartbeat(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    """It learns so from the journal, before the service says it."""

    def supersede(recorder: Recorder, callback: TuneCallback) -> None:
        one_trial(recorder, callback)
        journal_of(tmp_path, 2).close()

    assert not attempt(supersede).succeeded
    assert {said.phase for said in service.heard} <= {"starting", "searching", "finalizing"}


def test_a_missing_source_blocks_the_experiment(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    assert not attempt(no_trials, source=str(tmp_path / "gone")).succeeded
    final = service.heard[-1]
    assert (final.phase, final.blocked) == ("paused", True)
    assert final.reason.startswith(f"the trials to begin with cannot be read: no journal in {tmp_path / 'gone'}: ")


def test_an_attempt_imports_the_trials_of_its_source_once(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    source = tmp_path / "older"
    (source / "trials" / "00000").mkdir(parents=True)
    (source / "trials" / "00000" / "spec.json").write_text("{}")
    before = journal_of(source, 1)
    one_trial(before, Any)
    before.close()
    seen: list[str] = []

    def look(recorder: Recorder, callback: TuneCallback) -> None:
        seen.append(recorder.table.trials[0].source)

    for number in (1, 2):
        attempt(look, attempt=number, source=str(source))
    assert seen == ["older/0"] * 2
    assert {update.trial for said in service.heard for update in said.trials} == {0}
