"""Heartbeat: the driver's only connection to the service: progress goes up, directives come down.

Owns the thread that posts, and the newest directives. While the service is unreachable the driver continues, and the
changes of that time are reported when it answers again. An answer that a later attempt has taken over closes the
fence. It must not know Ray, nor of MLflow more than ids.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import httpx
from pydantic import ValidationError

from search_spaces.controls import Controls
from search_spaces.periodic import PeriodicThread
from search_spaces.protocol import (
    API_PREFIX,
    FINAL_PHASES,
    MAX_NODES,
    MAX_UPDATES,
    Directives,
    Heartbeat,
    LaunchConfig,
    Phase,
    Winner,
)
from search_spaces.request_limits import AnswerTooLargeError, Read, RequestLimits
from workers.fence import Fence
from workers.state.recorder import Recorder
from workers.tracking.mlflow_ids import MlflowIds

log = logging.getLogger(__name__)

MIN_GAP_S = 1.0  # however short the epochs are: each message costs the service 5 to 10 ms
#: For an idle connection: a busy machine may send the next heartbeat late, and a new one would have to be accepted.
KEEP_S = 15.0
RETRY_S = 1.0  # between two tries of the final heartbeat
TIMEOUT_S = 10.0
#: Statuses with which the service, not a proxy, says that this attempt is no longer the current one.
FENCED_STATUSES = frozenset({401, 403, 404, 409, 410})
PROBLEM = "application/problem+json"
TOO_LARGE = 413


class HeartbeatThread:
    """Sends a heartbeat every `launch.heartbeat_s`, and soon after `wake`.

    `phase` and `reason` are what the next one reports, with `excluded_nodes()`, `leaving_nodes()`, and `notice()` while
    the attempt runs; `directives` are the newest, with the newest controls. Before `report_trials` a heartbeat reports
    no trials.
    """

    def __init__(self, launch: LaunchConfig, fence: Fence) -> None:
        self._launch = launch
        self._fence = fence
        self._recorder: Recorder | None = None
        self._mlflow_ids: Callable[[], MlflowIds] = lambda: MlflowIds(None, None, {})
        self._mlflow_behind_s: Callable[[], float] = float
        gap_s = min(MIN_GAP_S, launch.heartbeat_s / 2)
        self._thread = PeriodicThread("heartbeat", self._beat, launch.heartbeat_s, gap_s)
        self._sending = threading.Lock()
        self._client = httpx.Client(
            base_url=launch.service_url,
            headers={"Authorization": f"Bearer {launch.token}"},
            timeout=TIMEOUT_S,
            limits=httpx.Limits(keepalive_expiry=KEEP_S),
            trust_env=False,
        )
        self._limits = RequestLimits(TIMEOUT_S)
        self._most_updates = MAX_UPDATES  # in one message; fewer once the service has refused one as too large
        self._reported_runs: dict[int, str] = {}
        self._winner: Winner | None = None
        self._blocked = False
        self._controls: Controls | None = None
        self.phase = Phase.STARTING
        self.reason = ""
        self.notice: Callable[[], str] = lambda: ""
        self.excluded_nodes: Callable[[], list[str]] = lambda: launch.excluded_nodes
        self.leaving_nodes: Callable[[], list[str]] = list
        self.directives = Directives(
            slots=launch.slots,
            slot_nodes=launch.slot_nodes,
            controls=launch.controls,
            cancel_trials=launch.cancel_trials,
        )

    def report_trials(
        self, recorder: Recorder, mlflow_ids: Callable[[], MlflowIds], mlflow_behind_s: Callable[[], float] = float
    ) -> None:
        """Report these trials from the next heartbeat on, and for how long MLflow has lacked events."""
        self._recorder, self._mlflow_ids, self._mlflow_behind_s = recorder, mlflow_ids, mlflow_behind_s

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._thread.wake()

    def join(self) -> None:
        """Wait until the thread has ended: after `send_final`, or because the fence is closed."""
        self._thread.join()

    def close(self) -> None:
        """Send nothing more."""
        self._thread.stop()
        self._thread.join()
        self._client.close()

    def send(self) -> bool:
        """Report all changes now, in as many messages as needed. Returns whether the service accepted them all.

        An error is only logged: the service takes a silent driver for a dead one, so the next heartbeat must follow.
        """
        with self._sending:
            left: list[int] = []
            try:
                phase = self.phase  # before the updates: those that precede a final heartbeat are among them
                ids = self._mlflow_ids()
                left = self._changed(ids)
                while not self._fence.is_closed():
                    some, rest = left[: self._most_updates], left[self._most_updates :]
                    # A final phase is only reported with the last updates: while more follow, the search continues.
                    response = self._post(self._message(some, ids, phase, is_last=not rest))
                    if response.status_code == TOO_LARGE and len(some) > 1:
                        self._most_updates = len(some) // 2
                        continue
                    if not self._accept(response):
                        break
                    self._reported_runs |= {number: ids.runs[number] for number in some if number in ids.runs}
                    left = rest
                    if not left:
                        return True
            except (httpx.HTTPError, TimeoutError, AnswerTooLargeError, ValidationError) as error:
                log.warning("no answer from the service at %s: %r", self._client.base_url, error)
            except Exception:
                log.exception("a heartbeat failed; the next one reports the same changes")
            if self._recorder is not None:
                self._recorder.put_back(set(left))
            return False

    def send_final(
        self,
        phase: Phase,
        reason: str,
        winner: Winner | None,
        patience_s: float,
        *,
        blocked: bool = False,
        controls: Controls | None = None,
    ) -> bool:
        """The final heartbeat, retried for `patience_s`. Returns whether the service accepted it.

        `controls` are those under which the search ended: newer ones may ask for more.
        """
        self._thread.stop()
        # Before the phase: the thread may be about to send once more.
        self.reason, self._winner, self._blocked, self._controls = reason, winner, blocked, controls
        self.phase = phase
        deadline, pause = time.monotonic() + patience_s, threading.Event()
        while not self._fence.is_closed():
            if self.send():
                return True
            if time.monotonic() >= deadline:
                return False
            pause.wait(min(RETRY_S, patience_s))
        return False

    def _beat(self) -> None:
        self.send()
        if self._fence.is_closed():
            self._thread.stop()

    def _changed(self, ids: MlflowIds) -> list[int]:
        """Trials with something new. MLflow may have runs of trials that the journal has lost."""
        if self._recorder is None:
            return []
        new_runs = {number for number, run in ids.runs.items() if self._reported_runs.get(number) != run}
        return sorted(self._recorder.take_changed() | new_runs & self._recorder.numbers())

    def _accept(self, answer: httpx.Response) -> bool:
        """Take over the answer's directives. A proxy's answer for an unreachable service closes no fence."""
        if answer.status_code in FENCED_STATUSES and answer.headers.get("content-type", "").startswith(PROBLEM):
            log.error("the service no longer accepts this attempt (%s): %s", answer.status_code, answer.text)
            self._fence.close()
            return False
        if answer.status_code != 200:
            log.warning("the service answered %s: %s", answer.status_code, answer.text[:500])
            return False
        directives = Directives.model_validate_json(answer.content)
        known = self.directives.controls
        self.directives = directives.model_copy(update={"controls": directives.controls or known})
        return True

    def _message(self, numbers: list[int], ids: MlflowIds, phase: Phase, is_last: bool) -> Heartbeat:
        recorder = self._recorder
        updates = []
        if recorder is not None:
            updates = [
                recorder.update_of(number).model_copy(update={"mlflow_run_id": ids.runs.get(number)})
                for number in numbers
            ]
        return Heartbeat.model_validate(
            {
                "phase": phase if is_last or phase not in FINAL_PHASES else Phase.FINALIZING,
                "reason": self._reason(phase) if is_last else "",
                "blocked": self._blocked and is_last,
                "trials": updates,
                "excluded_nodes": self.excluded_nodes()[:MAX_NODES],
                "leaving_nodes": self.leaving_nodes()[:MAX_NODES],
                "packing": recorder and recorder.packing(),
                "mlflow_experiment_id": ids.experiment,
                "mlflow_run_id": ids.parent,
                "mlflow_view": ids.view,
                "mlflow_behind_s": self._mlflow_behind_s(),
                "winner": self._winner if is_last else None,
                "controls": self._controls if is_last else None,
            }
        )

    def _reason(self, phase: Phase) -> str:
        """Of a running attempt, what it waits for, the notice and how many trials have failed."""
        if phase in FINAL_PHASES:
            return self.reason
        failures = self._recorder.failures() if self._recorder else ""
        return "; ".join(filter(None, (self.reason, self.notice(), failures)))

    def _post(self, message: Heartbeat) -> httpx.Response:
        """What the service answers; of its headers only the type."""
        path = f"{API_PREFIX}/attempts/{self._launch.attempt_id}/heartbeat"
        content, headers = message.model_dump_json(), {"Content-Type": "application/json"}

        def request(read: Read) -> httpx.Response:
            with self._client.stream("POST", path, content=content, headers=headers) as response:
                body = read(response.iter_bytes())
            kind = {"Content-Type": response.headers.get("content-type", "")}
            return httpx.Response(response.status_code, headers=kind, content=body)

        try:
            return self._limits.run(request)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):  # of a connection that ended meanwhile
            return self._limits.run(request)
