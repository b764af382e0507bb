"""The heartbeat against a real HTTP server: it goes away and comes back, it orders, it fences, it talks nonsense."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from search_spaces.controls import Controls
from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import Directives, LaunchConfig, TrialState, Winner
from workers.heartbeat import MOST_LINES, HeartbeatThread
from workers.state.recorder import Recorder
from workers.tracking.cursor import MlflowIds

OpenRecorder = Callable[..., Recorder]
NOWHERE = MlflowIds(None, None, {})


@pytest.fixture
def recorder(open_recorder: OpenRecorder) -> Recorder:
    found = open_recorder()
    for number in range(2):
        found.record_suggestion(number, {}, {"lr": 0.5})
    return found


@pytest.fixture
def heartbeat(service: Any, recorder: Recorder, launch: Callable[..., LaunchConfig]) -> Iterator[HeartbeatThread]:
    beating = HeartbeatThread(launch(service_url=f"http://127.0.0.1:{service.port}"), recorder, lambda: NOWHERE)
    yield beating
    beating._client.close()


def test_a_launch_says_what_is_to_be_canceled_before_the_service_does(
    recorder: Recorder, launch: Callable[..., LaunchConfig]
) -> None:
    heartbeat = HeartbeatThread(launch(cancel_trials=[1]), recorder, lambda: NOWHERE)
    assert heartbeat.orders == Directives(slots=2, cancel_trials=[1])
    heartbeat._client.close()


def test_a_run_of_a_trial_that_the_journal_lost_is_not_told(
    service: Any, recorder: Recorder, launch: Callable[..., LaunchConfig]
) -> None:
    told = launch(service_url=f"http://127.0.0.1:{service.port}")
    heartbeat = HeartbeatThread(told, recorder, lambda: MlflowIds("1", "parent", {1: "run-1", 7: "run-7"}))
    assert heartbeat.send()
    assert service.told() == [0, 1]
    heartbeat._client.close()


def test_the_thread_survives_whatever_goes_wrong_with_a_beat(
    service: Any, recorder: Recorder, launch: Callable[..., LaunchConfig], caplog: pytest.LogCaptureFixture
) -> None:
    failing = iter([RuntimeError("a defect of our own"), KeyError(7)])

    def ids() -> MlflowIds:
        error = next(failing, None)
        heartbeat.wake()
        if error:
            raise error
        return NOWHERE

    heartbeat = HeartbeatThread(
        launch(service_url=f"http://127.0.0.1:{service.port}", heartbeat_s=3600.0), recorder, ids
    )
    heartbeat.start()
    with service.spoken:
        assert service.spoken.wait_for(lambda: service.heard, timeout=60.0)
    assert service.told() == [0, 1], "and loses nothing"
    assert [record.exc_info is not None for record in caplog.records if "heartbeat failed" in record.message] == [
        True,
        True,
    ]
    assert heartbeat.send_final("canceled", "cancel ordered", None, patience_s=10.0)
    heartbeat.wake()
    heartbeat.join()
    heartbeat._client.close()


def test_lines_of_a_message_that_could_not_be_made_are_told_later(
    heartbeat: HeartbeatThread, service: Any, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(recorder, "update_of", lambda _: 1 / 0)
        assert not heartbeat.send()
    assert service.heard == []
    assert heartbeat.send()
    assert service.told() == [0, 1]


def test_progress_goes_up_and_orders_come_down(heartbeat: HeartbeatThread, service: Any) -> None:
    assert heartbeat.orders == Directives(slots=2)
    heartbeat.phase = "searching"
    newer = b'{"slots": 7, "stop": "pause", "cancel_trials": [1], "controls": {"num_samples": 9, "new": 1}, "new": 1}'
    service.answer = (200, "application/json", newer)
    assert heartbeat.send()
    assert heartbeat.orders == Directives(slots=7, stop="pause", cancel_trials=[1], controls=Controls(num_samples=9))
    assert service.path == "/api/v1/attempts/exp-abc-a1/heartbeat"
    assert service.headers["Authorization"] == "Bearer secret"
    said = service.heard[0]
    assert (said.phase, [line.trial for line in said.trials]) == ("searching", [0, 1])
    assert said.trials[0].parameters == {"lr": 0.5}


def test_controls_stay_as_they_were_told_last(
    heartbeat: HeartbeatThread, service: Any, experiment: Callable[..., ExperimentSpec]
) -> None:
    asked = Controls.of(experiment())
    heartbeat.orders = Directives(slots=1, controls=asked)
    assert heartbeat.send()  # the service says nothing of them
    assert heartbeat.orders == Directives(slots=3, controls=asked)
    more = asked.model_copy(update={"num_samples": 99})
    service.answer = (200, "application/json", Directives(slots=3, controls=more).model_dump_json().encode())
    assert heartbeat.send()
    assert heartbeat.orders.controls == more


def test_a_reason_is_told_while_it_holds_and_a_block_with_the_last_word(
    heartbeat: HeartbeatThread, service: Any
) -> None:
    heartbeat.phase, heartbeat.reason = "finalizing", "waiting for MLflow"
    assert heartbeat.send()
    assert (service.heard[-1].reason, service.heard[-1].blocked) == ("waiting for MLflow", False)
    assert heartbeat.send_final("paused", "the disk is full", None, patience_s=5.0, blocked=True)
    last = service.heard[-1]
    assert (last.phase, last.reason, last.blocked) == ("paused", "the disk is full", True)


def test_a_line_is_told_when_it_changed(heartbeat: HeartbeatThread, service: Any, recorder: Recorder) -> None:
    heartbeat.send()
    heartbeat.send()
    assert service.told() == []
    recorder.record_epoch(1, 1, {"validation_accuracy": 0.5})
    heartbeat.send()
    assert service.told() == [1]
    assert service.heard[-1].trials[0].best_value == 0.5


def test_what_changed_while_the_service_was_away_is_told_when_it_is_back(
    heartbeat: HeartbeatThread, service: Any, recorder: Recorder
) -> None:
    assert heartbeat.send()
    service.stop()
    for epoch in (1, 2):
        recorder.record_epoch(0, epoch, {"validation_accuracy": epoch / 10})
        assert not heartbeat.send()
    assert not heartbeat.fenced
    assert heartbeat.orders == Directives(slots=3)
    service.start()
    recorder.record_end(1, TrialState.ERROR, "gone")
    assert heartbeat.send()
    assert [(line.trial, line.epoch, line.state) for line in service.heard[-1].trials] == [
        (0, 2, "PENDING"),
        (1, 0, "ERROR"),
    ]


@pytest.mark.parametrize("status", [401, 403, 404, 409, 410])
def test_an_attempt_that_is_not_wanted_is_fenced(heartbeat: HeartbeatThread, service: Any, status: int) -> None:
    service.answer = (status, "application/problem+json", b'{"detail": "attempt 2 runs"}')
    assert not heartbeat.send()
    assert heartbeat.fenced
    assert not heartbeat.send_final("completed", "", None, patience_s=100.0)
    assert len(service.heard) == 1


@pytest.mark.parametrize(
    "answer",
    [
        (404, "text/html", b"<h1>no upstream</h1>"),
        (502, "text/html", b"bad gateway"),
        (500, "application/problem+json", b"{}"),
        (200, "text/html", b"<h1>please log in</h1>"),
        (200, "application/json", b'{"slots": "many"}'),
    ],
)
def test_what_a_proxy_says_is_no_answer(
    heartbeat: HeartbeatThread, service: Any, answer: tuple[int, str, bytes]
) -> None:
    good, service.answer = service.answer, answer
    assert not heartbeat.send()
    assert not heartbeat.fenced
    assert heartbeat.orders == Directives(slots=2)
    service.answer = good
    assert heartbeat.send()
    assert service.told() == [0, 1]


def test_a_run_id_that_came_late_is_told_once(
    service: Any, recorder: Recorder, launch: Callable[..., LaunchConfig]
) -> None:
    ids = NOWHERE
    heartbeat = HeartbeatThread(launch(service_url=f"http://127.0.0.1:{service.port}"), recorder, lambda: ids)
    recorder.record_end(0, TrialState.CANCELED, "over")
    heartbeat.send()
    assert service.heard[-1].trials[0].mlflow_run_id is None
    ids = MlflowIds("1", "parent", {0: "run-0"})
    heartbeat.send()
    assert [(line.trial, line.mlflow_run_id) for line in service.heard[-1].trials] == [(0, "run-0")]
    assert (service.heard[-1].mlflow_experiment_id, service.heard[-1].mlflow_run_id) == ("1", "parent")
    heartbeat.send()
    assert service.told() == []
    heartbeat._client.close()


def test_the_last_word_is_tried_again_and_carries_the_winner(heartbeat: HeartbeatThread, service: Any) -> None:
    heartbeat.send()
    service.stop()
    winner = Winner(trial=1, value=0.9, test_accuracy=0.8, test_loss=0.2)
    assert not heartbeat.send_final("completed", "goal reached", winner, patience_s=0.0)
    service.start()
    assert heartbeat.send()  # as the thread might, between two tries
    said = service.heard[-1]
    assert (said.phase, said.reason, said.winner) == ("completed", "goal reached", winner)
    assert heartbeat.send_final("completed", "goal reached", winner, patience_s=0.0)


def test_the_thread_beats_wakes_and_ends(service: Any, recorder: Recorder, launch: Callable[..., LaunchConfig]) -> None:
    told = launch(service_url=f"http://127.0.0.1:{service.port}", heartbeat_s=3600.0)
    heartbeat = HeartbeatThread(told, recorder, lambda: NOWHERE)
    heartbeat.start()
    with service.spoken:
        service.spoken.wait_for(lambda: len(service.heard) >= 1)
    recorder.record_epoch(0, 1, {"validation_accuracy": 0.4})
    heartbeat.wake()
    with service.spoken:
        service.spoken.wait_for(lambda: len(service.heard) >= 2)
    assert service.told() == [0]
    assert heartbeat.send_final("canceled", "cancel ordered", None, patience_s=10.0)
    heartbeat.wake()
    heartbeat.join()
    assert service.heard[-1].phase == "canceled"
    heartbeat._client.close()


def test_the_thread_ends_when_it_is_fenced(
    service: Any, recorder: Recorder, launch: Callable[..., LaunchConfig]
) -> None:
    service.answer = (409, "application/problem+json", b"{}")
    heartbeat = HeartbeatThread(launch(service_url=f"http://127.0.0.1:{service.port}"), recorder, lambda: NOWHERE)
    heartbeat.start()
    heartbeat.join()
    assert heartbeat.fenced
    heartbeat._client.close()


def test_many_lines_go_in_several_messages_and_the_last_word_is_the_last(
    service: Any, recorder: Recorder, launch: Callable[..., LaunchConfig]
) -> None:
    for number in range(2, 2 * MOST_LINES + 1):
        recorder.record_suggestion(number, {}, {"lr": 0.5})
    told = launch(service_url=f"http://127.0.0.1:{service.port}")
    heartbeat = HeartbeatThread(told, recorder, lambda: MlflowIds("1", "parent", {0: "run-0", 2 * MOST_LINES: "run-n"}))
    winner = Winner(trial=1, value=0.9, test_accuracy=0.8, test_loss=0.2)
    assert heartbeat.send_final("completed", "goal reached", winner, patience_s=0.0)
    assert [len(said.trials) for said in service.heard] == [MOST_LINES, MOST_LINES, 1]
    assert [said.phase for said in service.heard] == ["finalizing", "finalizing", "completed"]
    assert [said.winner for said in service.heard] == [None, None, winner]
    assert sorted(line.trial for said in service.heard for line in said.trials) == list(range(2 * MOST_LINES + 1))
    assert service.heard[-1].trials[-1].mlflow_run_id == "run-n"
    assert heartbeat.send()
    assert service.told() == [], "all was told once"
    heartbeat._client.close()


def test_what_follows_a_message_that_was_not_taken_is_told_later(
    service: Any, recorder: Recorder, launch: Callable[..., LaunchConfig]
) -> None:
    for number in range(2, MOST_LINES + 1):
        recorder.record_suggestion(number, {}, {"lr": 0.5})
    heartbeat = HeartbeatThread(launch(service_url=f"http://127.0.0.1:{service.port}"), recorder, lambda: NOWHERE)
    good, service.answer = service.answer, (503, "text/plain", b"")
    assert not heartbeat.send()
    service.heard.clear()
    service.answer = good
    assert heartbeat.send()
    assert [len(said.trials) for said in service.heard] == [MOST_LINES, 1]
    heartbeat._client.close()
