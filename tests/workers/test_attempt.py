"""An attempt at an experiment: its journal, its heartbeats and its result, with stand-ins for trials and the winner.

The service is a real HTTP server; MLflow is unreachable unless a test gives a tracker that answers.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from search_spaces.controls import Controls
from search_spaces.layout import BEST, NAMES
from search_spaces.protocol import ErrorKind, Phase, TrialState, Winner
from search_spaces.replicates import replicate_number
from search_spaces.storage.base import UNUSABLE_ERRNOS
from search_spaces.storage.folder import FolderStorage
from search_spaces.storage.folder_journal import FolderJournal
from tests.support.attempts import (
    AFTER,
    Attempted,
    MemoryTracking,
    ScriptedEvaluation,
    Trials,
    directives,
    journal_of,
    no_trials,
    one_trial,
)
from tests.support.data_reports import data_report
from tests.support.nodes import MemoryCluster
from tests.support.workers import BuildLaunch
from workers.failures.attempt import ModelNameTakenError
from workers.failures.classification import Failure, TrialError
from workers.nodes import Nodes
from workers.search.stop_conditions import Outcome
from workers.search.tune_callbacks import TuneCallback
from workers.state.recorder import Recorder
from workers.winner.evaluation import EvaluationFailedError, StopRequestedError, WinnerScore
from workers.winner.model_digest import digest


def test_a_completed_search_ends_with_a_registered_winner(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    done = attempt(one_trial)
    assert done.succeeded
    sha256 = digest(tmp_path / NAMES.model)
    winner = Winner(trial=0, value=0.5, test_accuracy=0.75, test_loss=0.5, model_uri="models:/x/0", model_sha256=sha256)
    final = service.heard[-1]
    assert (final.phase, final.reason, final.winner) == ("completed", "", winner)
    assert final.controls == Controls(num_samples=1)
    assert done.tracking.status == "FINISHED"
    counts = {f"trials_{state.lower()}": 0 for state in TrialState if state != "PENDING"} | {"trials_completed": 1}
    assert done.tracking.summary == counts | {
        "best_value": 0.5,
        "best_validation_accuracy": 0.5,
        "best_trial": 0,
        "winner_trial": 0,
        "winner_value": 0.5,
        "test_accuracy": 0.75,
        "test_loss": 0.5,
    }
    assert done.tracking.tags == {
        "rung.state": "COMPLETED",
        "rung.reason": "",
        "rung.best_trial": "0",
        "rung.best_run_id": "run-0",
        "rung.winner_trial": "0",
        "rung.winner_run_id": "run-0",
        "rung.model": "models:/x/0",
    }
    after = journal_of(tmp_path)
    assert after.table.winner == winner
    after.close()


def test_the_winner_by_fresh_seeds_is_measured_and_registered(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    """Trial 0 has the best value of the search, but trial 1 has the best mean over two fresh seeds."""
    values = {0: 0.9, 1: 0.8, **{replicate_number(0, seed): 0.6 + seed / 10 for seed in range(2)}}
    values |= {replicate_number(1, seed): 0.75 + seed / 10 for seed in range(2)}

    def trials(recorder: Recorder, callback: TuneCallback) -> None:
        for number, value in values.items():
            recorder.record_suggestion(number, {}, {})
            metrics = {"validation_accuracy": value, "validation_loss": 1 - value}
            recorder.record_epoch(number, 1, metrics, (TrialState.COMPLETED, "done"))

    changes = {"finalists": {"trials": 2, "seeds": 2}, "searcher": {"kind": "random", "num_samples": 2}}
    done = attempt(trials, changes=changes)
    chosen = replicate_number(1, 1)
    assert done.evaluation.evaluated == [(chosen, 1)]
    final = service.heard[-1]
    assert (final.phase, final.winner.trial, final.winner.value) == ("completed", chosen, 0.85)
    assert (done.tracking.summary["best_trial"], done.tracking.summary["trials_completed"]) == (0, 2)
    assert (done.tracking.summary["winner_trial"], done.tracking.summary["winner_value"]) == (1, 0.85)
    tags = done.tracking.tags
    assert (tags["rung.best_trial"], tags["rung.best_run_id"]) == ("0", "run-0")
    assert (tags["rung.winner_trial"], tags["rung.winner_run_id"]) == ("1", f"run-{chosen}")
    assert done.tracking.summary["replicate_mean"] == pytest.approx(0.8)
    assert done.tracking.summary["replicate_sd"] == pytest.approx(0.1 / math.sqrt(2))


@pytest.mark.parametrize("canceled", [False, True])
def test_an_extended_search_keeps_what_fresh_seeds_chose_until_another_run_is_registered(
    attempt: Callable[..., Attempted], tmp_path: Path, canceled: bool
) -> None:
    """A better trial 2 is found then, and no replicate of it."""
    values = {0: 0.6, 1: 0.5, **{replicate_number(trial, 0): 0.7 - trial / 10 for trial in range(2)}}
    chosen = replicate_number(0, 0)
    changes = {"finalists": {"trials": 2, "seeds": 1}, "searcher": {"kind": "random", "num_samples": 2}}

    def record(values: dict[int, float]) -> Trials:
        def trials(recorder: Recorder, callback: TuneCallback) -> None:
            for number, value in values.items():
                recorder.record_suggestion(number, {}, {})
                FolderStorage(tmp_path).artifacts.write(NAMES.trial(number).best, b"weights")
                recorder.record_epoch(number, 1, {"validation_accuracy": value}, (TrialState.COMPLETED, "done"))
            if canceled and len(values) == 1:
                callback.outcome = Outcome(Phase.CANCELED, "canceled on request")

        return trials

    assert attempt(record(values), changes=changes).tracking.summary["replicate_mean"] == 0.7
    done = attempt(record({2: 0.9}), attempt=2, changes=changes)
    kept = {int(path.parent.name) for path in tmp_path.rglob(BEST)}
    assert kept == ({2, chosen} if canceled else {2})
    assert done.evaluation.evaluated == ([] if canceled else [(2, 1)])
    if not canceled:
        assert math.isnan(done.tracking.summary["replicate_mean"]), "MLflow would show that of the earlier winner"


def test_the_service_learns_which_nodes_the_search_does_not_use(
    attempt: Callable[..., Attempted], service: Any, launch: BuildLaunch
) -> None:
    def trials(recorder: Recorder, callback: TuneCallback) -> None:
        nodes, searcher = (
            Nodes(launch(), MemoryCluster("w1", "w2")),
            SimpleNamespace(finish=lambda: None, no_more=False),
        )
        callback.attach(cast("Any", searcher), nodes, {"CPU": 1.0})
        nodes.exclude(Failure(ErrorKind.NODE, "node w2 has no Rung", "w2"))
        one_trial(recorder, callback)

    assert attempt(trials).succeeded
    assert service.heard[-1].excluded_nodes == ["w2"]


def test_what_is_known_of_the_data_is_logged_on_the_parent_run(
    attempt: Callable[..., Attempted], tmp_path: Path
) -> None:
    (tmp_path / NAMES.data).mkdir()
    leak = "1 image of test is identical to one of train and validation, so the test result looks better than it is"
    report = data_report(notes=["1 image was resized", leak])
    (tmp_path / NAMES.data_report).write_text(report.model_dump_json())
    done = attempt(one_trial)
    assert done.calls[:4] == ["finish", "register", "finish", "log data"]
    assert done.tracking.remarks == (leak,)


def test_the_insight_of_a_winner_is_logged_before_the_final_heartbeat(
    attempt: Callable[..., Attempted], tmp_path: Path
) -> None:
    class Insightful(ScriptedEvaluation):
        def make_insight(self, *_: Any) -> None:
            events = [entry["event"] for entry in FolderStorage(tmp_path).journal.entries()]
            assert "winner" in events, "it is known by then"
            (tmp_path / NAMES.insight).mkdir()
            (tmp_path / NAMES.insight_report).write_text("{}")

    calls = attempt(one_trial, evaluation=Insightful()).calls
    assert calls[:4] == ["finish", "register", "finish", "log insight"]


def test_an_insight_that_fails_costs_only_the_insight(
    attempt: Callable[..., Attempted], service: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Puzzled(ScriptedEvaluation):
        def make_insight(self, *_: Any) -> None:
            raise RuntimeError("no forest")

    done = attempt(one_trial, evaluation=Puzzled())
    assert done.succeeded
    assert done.tracking.status == "FINISHED"
    assert service.heard[-1].phase == "completed"
    assert "no forest" in caplog.text


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


def test_failed_trials_are_part_of_the_reason(attempt: Callable[..., Attempted], service: Any) -> None:
    def fail_one(recorder: Recorder, callback: TuneCallback) -> None:
        recorder.record_suggestion(1, {}, {})
        recorder.record_end(1, TrialState.ERROR, "ValueError: no such layer", ErrorKind.CODE)
        one_trial(recorder, callback)

    assert attempt(fail_one).succeeded
    failures = "1 of 2 trials failed; the first: ValueError: no such layer"
    assert (service.heard[-1].phase, service.heard[-1].reason) == ("completed", failures)


def test_a_slot_is_needed_until_the_winner_is_evaluated(attempt: Callable[..., Attempted], service: Any) -> None:
    phases: list[str] = []

    class Looking(ScriptedEvaluation):
        def evaluate(self, *arguments: Any, **named: Any) -> WinnerScore:
            with service.spoken:
                assert service.spoken.wait_for(lambda: service.heard and service.heard[-1].phase == "finalizing", 10)
            phases.extend(said.phase for said in service.heard)
            return super().evaluate(*arguments, **named)

    def register(*_: Any) -> str:
        with service.spoken:
            assert service.spoken.wait_for(lambda: service.heard[-1].phase == "delivering", 10)
        return "models:/x/0"

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MemoryTracking, "register", register)
        assert attempt(one_trial, evaluation=Looking()).succeeded
    assert "delivering" not in phases


def test_an_evaluation_that_fails_leaves_a_completed_experiment_without_a_winner(
    attempt: Callable[..., Attempted], service: Any
) -> None:
    done = attempt(one_trial, evaluation=ScriptedEvaluation(error=EvaluationFailedError("it was lost")))
    assert done.succeeded
    final = service.heard[-1]
    assert (final.phase, final.reason, final.winner) == ("completed", "it was lost", None)
    assert done.tracking.status == "FINISHED"


def test_a_model_name_that_is_taken_pauses_the_experiment(
    attempt: Callable[..., Attempted], service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def register(*_: Any) -> str:
        raise ModelNameTakenError("p.x")

    monkeypatch.setattr(MemoryTracking, "register", register)
    assert not attempt(one_trial).succeeded
    final = service.heard[-1]
    assert (final.phase, final.blocked, final.winner) == ("paused", True, None)
    assert final.reason == str(ModelNameTakenError("p.x"))


@pytest.mark.parametrize("number", sorted(UNUSABLE_ERRNOS))
@pytest.mark.parametrize("through_tune", [False, True])
def test_a_storage_that_cannot_be_used_pauses_the_experiment_until_a_person_acts(
    attempt: Callable[..., Attempted], service: Any, number: int, through_tune: bool
) -> None:
    def fail(recorder: Recorder, callback: TuneCallback) -> None:
        error = OSError(number, os.strerror(number), "/shared/x/spec.json")
        raise RuntimeError(f"Traceback\n{type(error).__name__}: {error}") if through_tune else error

    assert not attempt(fail).succeeded
    final = service.heard[-1]
    assert (final.phase, final.blocked) == ("paused", True)
    assert f"[Errno {number}]" in final.reason
    assert "/shared/x/spec.json" in final.reason


def test_a_journal_that_cannot_be_opened_for_now_pauses_the_experiment(
    attempt: Callable[..., Attempted], service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "/shared/x/journal.jsonl")

    monkeypatch.setattr(FolderJournal, "open_writer", fail)
    assert not attempt(no_trials).succeeded
    final = service.heard[-1]
    assert (final.phase, final.blocked) == ("paused", True)
    assert final.reason == ("the journal cannot be opened: [Errno 30] Read-only file system: '/shared/x/journal.jsonl'")


@pytest.mark.parametrize(
    ("kind", "reason", "blocked"),
    [
        (ErrorKind.DISK_FULL, "the disk is full: OSError: no space", True),
        (ErrorKind.DATA, "the winner could not be evaluated, DATA: OSError: no space", True),
        (ErrorKind.CODE, "the winner could not be evaluated, CODE: OSError: no space", False),
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
    [("cancel", "canceled", "canceled on request", "KILLED"), ("pause", "paused", "paused on request", "SCHEDULED")],
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
        assert service.heard[-1].phase == "delivering", "it holds no slot"
        service.answer = directives(stop=stop)

    requesting = threading.Thread(target=request)
    requesting.start()
    assert attempt(one_trial, mlflow=False).succeeded
    requesting.join()
    final = service.heard[-1]
    assert final.phase == phase
    assert final.reason.startswith(f"{phase} on request; MLflow ")
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
    assert (after.table.trials[0].state, after.table.trials[0].stop_reason) == ("CANCELED", "canceled on request")
    after.close()


def test_an_attempt_imports_the_trials_of_its_source_once_and_does_not_log_which_it_is(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
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

    with caplog.at_level(logging.INFO):
        for number in (1, 2):
            attempt(look, attempt=number, source=str(source))
    assert seen == ["older/0"] * 2
    assert "1 trials are imported from the source experiment" in caplog.text
    assert "older" not in caplog.text, "it may be another team's"
    assert {update.trial for said in service.heard for update in said.trials} == {0}


def test_an_attempt_takes_configurations_of_earlier_experiments_once_and_before_the_search(
    attempt: Callable[..., Attempted], tmp_path: Path
) -> None:
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    before = journal_of(earlier, 1)
    before.record_suggestion(0, {}, {"batch_size": 64})
    before.record_epoch(0, 1, {"validation_accuracy": 0.5}, (TrialState.COMPLETED, "done"))
    before.close()
    seen: list[Any] = []

    def look(recorder: Recorder, callback: TuneCallback) -> None:
        seen.append(recorder.table.known)

    attempt(look, attempt=1, earlier=[str(earlier)])
    attempt(look, attempt=2, earlier=[])
    assert seen == [({"batch_size": 64},)] * 2
