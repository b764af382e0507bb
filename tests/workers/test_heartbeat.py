"""The heartbeat against a real HTTP server that disappears, directs, supersedes and answers nonsense."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from search_spaces import request_limits
from search_spaces.controls import Controls
from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import MAX_NODES, MAX_UPDATES, Directives, LaunchConfig, TrialState, Winner
from search_spaces.request_limits import RequestLimits
from tests.support.handlers import QuietHandler, handling
from tests.support.hostile_servers import endless_server, slow_server
from tests.support.workers import OpenRecorder
from workers.fence import Fence
from workers.heartbeat import HeartbeatThread
from workers.state.recorder import Recorder
from workers.tracking.mlflow_ids import MlflowIds

NOWHERE = MlflowIds(None, None, {})


@pytest.fixture
def recorder(open_recorder: OpenRecorder) -> Recorder:
    found = open_recorder()
    for number in range(2):
        found.record_suggestion(number, {}, {"lr": 0.5})
    return found


@pytest.fixture
def fence() -> Fence:
    return Fence()


@pytest.fixture
def heartbeat_of(
    service: Any, recorder: Recorder, launch: Callable[..., LaunchConfig], fence: Fence
) -> Iterator[Callable[..., HeartbeatThread]]:
    """`heartbeat_of(ids, field=...)`: reports the runs `ids()`, with a launch of these fields."""
    made: list[HeartbeatThread] = []

    def build(ids: Callable[[], MlflowIds] = lambda: NOWHERE, **fields: Any) -> HeartbeatThread:
        made.append(HeartbeatThread(launch(service_url=f"http://127.0.0.1:{service.port}", **fields), fence))
        made[-1].report_trials(recorder, ids)
        return made[-1]

    yield build
    for heartbeat in made:
        heartbeat.close()


@pytest.fixture
def heartbeat(heartbeat_of: Callable[..., HeartbeatThread]) -> HeartbeatThread:
    return heartbeat_of()


def test_a_heartbeat_says_for_how_long_mlflow_has_lacked_events(
    heartbeat: HeartbeatThread, service: Any, recorder: Recorder
) -> None:
    heartbeat.report_trials(recorder, lambda: NOWHERE, lambda: 75.0)
    assert heartbeat.send()
    assert service.heard[-1].mlflow_behind_s == 75.0


def test_the_first_directives_are_those_of_the_launch(heartbeat_of: Callable[..., HeartbeatThread]) -> None:
    heartbeat = heartbeat_of(cancel_trials=[1])
    assert heartbeat.directives == Directives(slots=2, cancel_trials=[1])


def test_nodes_that_are_not_used_are_reported(service: Any, heartbeat: HeartbeatThread) -> None:
    assert heartbeat.send()
    heartbeat.excluded_nodes = lambda: [f"{number:056x}" for number in range(MAX_NODES + 1)]
    assert heartbeat.send()
    heartbeat.excluded_nodes, heartbeat.leaving_nodes = list, lambda: ["w1"]
    assert heartbeat.send()
    first, second, third = service.heard
    assert (first.excluded_nodes, first.leaving_nodes) == ([], [])
    assert (len(second.excluded_nodes), second.excluded_nodes[0]) == (MAX_NODES, "0" * 56)
    assert (third.excluded_nodes, third.leaving_nodes) == ([], ["w1"])


def test_a_run_of_a_trial_that_the_journal_lost_is_not_reported(
    service: Any, recorder: Recorder, heartbeat_of: Callable[..., HeartbeatThread]
) -> None:
    heartbeat = heartbeat_of(lambda: MlflowIds("1", "parent", {1: "run-1", 7: "run-7"}))
    assert heartbeat.send()
    assert service.told() == [0, 1]


def test_the_thread_survives_any_error_of_a_heartbeat(
    service: Any, recorder: Recorder, heartbeat_of: Callable[..., HeartbeatThread], caplog: pytest.LogCaptureFixture
) -> None:
    failing = iter([RuntimeError("a defect"), KeyError(7)])

    def ids() -> MlflowIds:
        error = next(failing, None)
        heartbeat.wake()
        if error:
            raise error
        return NOWHERE

    heartbeat = heartbeat_of(ids, heartbeat_s=3600.0)
    heartbeat.start()
    with service.spoken:
        assert service.spoken.wait_for(lambda: service.heard, timeout=60.0)
    assert service.told() == [0, 1], "nothing is lost"
    assert [record.exc_info is not None for record in caplog.records if "heartbeat failed" in record.message] == [
        True,
        True,
    ]
    assert heartbeat.send_final("canceled", "canceled on request", None, patience_s=10.0)
    heartbeat.join()


def test_updates_of_a_message_that_could_not_be_made_are_reported_later(
    heartbeat: HeartbeatThread, service: Any, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(recorder, "update_of", lambda _: 1 / 0)
        assert not heartbeat.send()
    assert service.heard == []
    assert heartbeat.send()
    assert service.told() == [0, 1]


def test_a_heartbeat_that_meets_the_end_of_its_idle_connection_is_sent_again(
    heartbeat: HeartbeatThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service, or a proxy before it, may close an idle connection while the next heartbeat is on its way."""
    connections: list[int] = []

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            connections.append(0)

        def respond(self) -> None:
            connections[-1] += 1
            self.body()
            if connections == [2]:  # on the first connection
                self.close_connection = True
            else:
                self.answer(200, b'{"slots": 3}')

    with handling(Handler) as url, httpx.Client(base_url=url, trust_env=False) as client:
        monkeypatch.setattr(heartbeat, "_client", client)
        assert [heartbeat.send() for _ in range(3)] == [True] * 3
    assert connections == [2, 2]


@pytest.mark.parametrize("in_headers", [False, True])
def test_a_heartbeat_whose_answer_trickles_in_is_abandoned_and_sent_again(
    service: Any, heartbeat: HeartbeatThread, in_headers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte arrives in time, so that the timeout of a read never passes."""
    with slow_server(in_headers) as slow, monkeypatch.context() as patched:
        patched.setattr(heartbeat, "_client", httpx.Client(base_url=slow.url))
        patched.setattr(heartbeat, "_limits", RequestLimits(0.3))
        assert not heartbeat.send()
        assert slow.attempts == 1
    assert heartbeat.send()
    assert service.told() == [0, 1], "the changes are reported with the next"


def test_no_more_of_an_endless_answer_to_a_heartbeat_is_read_than_any_answer_has(
    service: Any, heartbeat: HeartbeatThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_limits, "MAX_ANSWER_BYTES", 1_000_000)
    with endless_server(chunked=True) as endless, monkeypatch.context() as patched:
        patched.setattr(heartbeat, "_client", httpx.Client(base_url=endless.url))
        assert not heartbeat.send()
    assert endless.sent[0] < 30_000_000, "no more than fits into the buffers of two sockets"
    assert heartbeat.send()
    assert service.told() == [0, 1]


def test_progress_goes_up_and_directives_come_down(heartbeat: HeartbeatThread, service: Any) -> None:
    assert heartbeat.directives == Directives(slots=2)
    heartbeat.phase = "searching"
    newer = b'{"slots": 7, "stop": "pause", "cancel_trials": [1], "controls": {"num_samples": 9, "new": 1}, "new": 1}'
    service.answer = (200, "application/json", newer)
    assert heartbeat.send()
    assert heartbeat.directives == Directives(
        slots=7, stop="pause", cancel_trials=[1], controls=Controls(num_samples=9)
    )
    assert service.path == "/api/v1/attempts/exp-abc-a1/heartbeat"
    assert service.headers["Authorization"] == "Bearer secret"
    said = service.heard[0]
    assert (said.phase, [line.trial for line in said.trials]) == ("searching", [0, 1])
    assert said.trials[0].parameters == {"lr": 0.5}


def test_controls_stay_until_the_service_sends_newer_ones(
    heartbeat: HeartbeatThread, service: Any, experiment: Callable[..., ExperimentSpec]
) -> None:
    asked = Controls.of(experiment())
    heartbeat.directives = Directives(slots=1, controls=asked)
    assert heartbeat.send()  # the service sends none
    assert heartbeat.directives == Directives(slots=3, controls=asked)
    more = asked.model_copy(update={"num_samples": 99})
    service.answer = (200, "application/json", Directives(slots=3, controls=more).model_dump_json().encode())
    assert heartbeat.send()
    assert heartbeat.directives.controls == more


def test_a_reason_is_reported_while_it_holds_and_a_block_with_the_final_heartbeat(
    heartbeat: HeartbeatThread, service: Any, recorder: Recorder
) -> None:
    heartbeat.phase, heartbeat.reason = "finalizing", "waiting for MLflow"
    assert heartbeat.send()
    assert (service.heard[-1].reason, service.heard[-1].blocked) == ("waiting for MLflow", False)
    recorder.record_end(0, TrialState.ERROR, "ValueError: x")
    assert heartbeat.send()
    assert service.heard[-1].reason == "waiting for MLflow; 1 of 2 trials failed; the first: ValueError: x"
    assert heartbeat.send_final("paused", "the disk is full", None, patience_s=5.0, blocked=True)
    last = service.heard[-1]
    assert (last.phase, last.reason, last.blocked) == ("paused", "the disk is full", True)


def test_a_trial_is_reported_when_it_has_changed(heartbeat: HeartbeatThread, service: Any, recorder: Recorder) -> None:
    heartbeat.send()
    heartbeat.send()
    assert service.told() == []
    recorder.record_epoch(1, 1, {"validation_accuracy": 0.5})
    heartbeat.send()
    assert service.told() == [1]
    assert service.heard[-1].trials[0].best_value == 0.5


def test_changes_during_an_outage_of_the_service_are_reported_after_it(
    fence: Fence, heartbeat: HeartbeatThread, service: Any, recorder: Recorder
) -> None:
    assert heartbeat.send()
    service.stop()
    for epoch in (1, 2):
        recorder.record_epoch(0, epoch, {"validation_accuracy": epoch / 10})
        assert not heartbeat.send()
    assert not fence.is_closed()
    assert heartbeat.directives == Directives(slots=3)
    service.start()
    recorder.record_end(1, TrialState.ERROR, "gone")
    assert heartbeat.send()
    assert [(line.trial, line.epoch, line.state) for line in service.heard[-1].trials] == [
        (0, 2, "PENDING"),
        (1, 0, "ERROR"),
    ]


@pytest.mark.parametrize("status", [401, 403, 404, 409, 410])
def test_a_refused_attempt_is_superseded(fence: Fence, heartbeat: HeartbeatThread, service: Any, status: int) -> None:
    service.answer = (status, "application/problem+json", b'{"detail": "attempt 2 runs"}')
    assert not heartbeat.send()
    assert fence.is_closed()
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
def test_the_answer_of_a_proxy_is_ignored(
    fence: Fence, heartbeat: HeartbeatThread, service: Any, answer: tuple[int, str, bytes]
) -> None:
    good, service.answer = service.answer, answer
    assert not heartbeat.send()
    assert not fence.is_closed()
    assert heartbeat.directives == Directives(slots=2)
    service.answer = good
    assert heartbeat.send()
    assert service.told() == [0, 1]


def test_a_late_run_id_is_reported_once(
    service: Any, recorder: Recorder, heartbeat_of: Callable[..., HeartbeatThread]
) -> None:
    ids = NOWHERE
    heartbeat = heartbeat_of(lambda: ids)
    recorder.record_end(0, TrialState.CANCELED, "over")
    heartbeat.send()
    assert service.heard[-1].trials[0].mlflow_run_id is None
    ids = MlflowIds("1", "parent", {0: "run-0"})
    heartbeat.send()
    assert [(line.trial, line.mlflow_run_id) for line in service.heard[-1].trials] == [(0, "run-0")]
    assert (service.heard[-1].mlflow_experiment_id, service.heard[-1].mlflow_run_id) == ("1", "parent")
    heartbeat.send()
    assert service.told() == []


def test_the_final_heartbeat_is_retried_and_carries_the_winner(heartbeat: HeartbeatThread, service: Any) -> None:
    heartbeat.send()
    service.stop()
    winner = Winner(trial=1, value=0.9, test_accuracy=0.8, test_loss=0.2)
    assert not heartbeat.send_final("completed", "goal reached", winner, patience_s=0.0)
    service.start()
    assert heartbeat.send()  # as the thread may, between two tries
    said = service.heard[-1]
    assert (said.phase, said.reason, said.winner) == ("completed", "goal reached", winner)
    assert heartbeat.send_final("completed", "goal reached", winner, patience_s=0.0)


def test_the_thread_sends_wakes_and_ends(
    service: Any, recorder: Recorder, heartbeat_of: Callable[..., HeartbeatThread]
) -> None:
    heartbeat = heartbeat_of(heartbeat_s=3600.0)
    heartbeat.start()
    with service.spoken:
        service.spoken.wait_for(lambda: len(service.heard) >= 1)
    recorder.record_epoch(0, 1, {"validation_accuracy": 0.4})
    heartbeat.wake()
    with service.spoken:
        service.spoken.wait_for(lambda: len(service.heard) >= 2)
    assert service.told() == [0]
    assert heartbeat.send_final("canceled", "canceled on request", None, patience_s=10.0)
    heartbeat.join()
    assert service.heard[-1].phase == "canceled"


def test_the_thread_of_a_superseded_attempt_ends(
    fence: Fence, service: Any, recorder: Recorder, heartbeat_of: Callable[..., HeartbeatThread]
) -> None:
    service.answer = (409, "application/problem+json", b"{}")
    heartbeat = heartbeat_of()
    heartbeat.start()
    heartbeat.join()
    assert fence.is_closed()


def test_many_updates_take_several_messages_and_only_the_last_is_final(
    service: Any, recorder: Recorder, heartbeat_of: Callable[..., HeartbeatThread]
) -> None:
    for number in range(2, 2 * MAX_UPDATES + 1):
        recorder.record_suggestion(number, {}, {"lr": 0.5})
    heartbeat = heartbeat_of(lambda: MlflowIds("1", "parent", {0: "run-0", 2 * MAX_UPDATES: "run-n"}))
    winner = Winner(trial=1, value=0.9, test_accuracy=0.8, test_loss=0.2)
    assert heartbeat.send_final("completed", "goal reached", winner, patience_s=0.0)
    assert [len(said.trials) for said in service.heard] == [MAX_UPDATES, MAX_UPDATES, 1]
    assert [said.phase for said in service.heard] == ["finalizing", "finalizing", "completed"]
    assert [said.winner for said in service.heard] == [None, None, winner]
    assert sorted(line.trial for said in service.heard for line in said.trials) == list(range(2 * MAX_UPDATES + 1))
    assert service.heard[-1].trials[-1].mlflow_run_id == "run-n"
    assert heartbeat.send()
    assert service.told() == [], "everything was reported once"


def test_updates_after_a_refused_message_are_reported_later(
    service: Any, recorder: Recorder, heartbeat_of: Callable[..., HeartbeatThread]
) -> None:
    for number in range(2, MAX_UPDATES + 1):
        recorder.record_suggestion(number, {}, {"lr": 0.5})
    heartbeat = heartbeat_of()
    good, service.answer = service.answer, (503, "text/plain", b"")
    assert not heartbeat.send()
    service.heard.clear()
    service.answer = good
    assert heartbeat.send()
    assert [len(said.trials) for said in service.heard] == [MAX_UPDATES, 1]


def test_a_message_that_the_service_refuses_as_too_large_is_sent_in_parts(
    service: Any, recorder: Recorder, heartbeat_of: Callable[..., HeartbeatThread]
) -> None:
    for number in range(2, 20):
        recorder.record_suggestion(number, {}, {"lr": 0.5, "reason": "x" * 100})
    service.largest_bytes = 3000
    heartbeat = heartbeat_of()
    heartbeat.phase = "searching"
    assert heartbeat.send()
    told = [[line.trial for line in said.trials] for said in service.heard]
    assert [number for some in told for number in some] == list(range(20))
    assert all(1 <= len(some) <= 5 for some in told)
