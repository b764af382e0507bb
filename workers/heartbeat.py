"""Heartbeat: the driver's only talk with the service: progress up, orders down.

Owns the thread that posts, and the newest orders. When the service is away the driver goes on, and what
changed meanwhile is said when it is back. An answer that this attempt is no longer the current one sets
`fenced`: the driver must stop and write nothing more. It must not know Ray or MLflow.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

import httpx
from pydantic import ValidationError

from search_spaces.controls import Controls
from search_spaces.protocol import API_PREFIX, Directives, Heartbeat, LaunchConfig, TrialUpdate, Winner
from workers.tracking.cursor import MlflowIds

log = logging.getLogger("rung.heartbeat")
SHORTEST_GAP_S = 1.0  # however short the epochs are: each message costs the service 5 to 10 ms
MOST_LINES = 500  # of one message, so that neither its size nor the time to store it passes a limit
ACTIVE_PHASES = frozenset({"starting", "searching", "finalizing"})
FENCED = frozenset({401, 403, 404, 409, 410})
PROBLEM = "application/problem+json"


class Lines(Protocol):
    """Where what is told of trials comes from: `Recorder`, or nowhere."""

    def numbers(self) -> set[int]: ...

    def take_changed(self) -> set[int]: ...

    def put_back(self, changed: set[int]) -> None: ...

    def update_of(self, number: int) -> TrialUpdate: ...


class NoLines:
    """Those of an attempt without a journal."""

    def numbers(self) -> set[int]:
        return set()

    def take_changed(self) -> set[int]:
        return set()

    def put_back(self, changed: set[int]) -> None:
        """Nothing was taken."""

    def update_of(self, number: int) -> TrialUpdate:
        raise KeyError(number)


class HeartbeatThread(threading.Thread):
    """Beats every `launch.heartbeat_s`, and soon after `wake`.

    `phase` and `reason` are what it says next; `orders` are the newest, with the newest controls.
    """

    def __init__(self, launch: LaunchConfig, recorder: Lines, mlflow_ids: Callable[[], MlflowIds]) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._launch = launch
        self._recorder = recorder
        self._mlflow_ids = mlflow_ids
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._sending = threading.Lock()
        self._client = httpx.Client(
            base_url=launch.service_url,
            headers={"Authorization": f"Bearer {launch.token}"},
            timeout=10,
            trust_env=False,
        )
        self._told_runs: dict[int, str] = {}
        self._winner: Winner | None = None
        self._blocked = False
        self._controls: Controls | None = None
        self.phase: str = "starting"
        self.reason = ""
        self.orders = Directives(slots=launch.slots, controls=launch.controls, cancel_trials=launch.cancel_trials)
        self.fenced = False

    def run(self) -> None:
        while not self._stopped.is_set() and not self.fenced:
            self.send()
            gap_s = min(SHORTEST_GAP_S, self._launch.heartbeat_s / 2)
            self._stopped.wait(gap_s)
            self._wake.wait(self._launch.heartbeat_s - gap_s)
            self._wake.clear()

    def wake(self) -> None:
        self._wake.set()

    def send(self) -> bool:
        """All that changed, in as many messages as it takes, at once. True when the service took them all.

        Whatever goes wrong is logged and no more: a silent driver is taken for a dead one.
        """
        with self._sending:
            left: list[int] = []
            try:
                phase = self.phase  # before the lines: those that precede a last word are among them
                ids = self._mlflow_ids()
                left = self._changed(ids)
                while True:
                    some, rest = left[:MOST_LINES], left[MOST_LINES:]
                    # A last word is the last: as long as lines are to follow, the search goes on.
                    if not self._take(self._post(self._message(some, ids, phase, whole=not rest))):
                        break
                    self._told_runs |= {number: ids.runs[number] for number in some if number in ids.runs}
                    left = rest
                    if not left:
                        return True
            except (httpx.HTTPError, ValidationError) as error:
                log.warning("the service did not answer: %r", error)
            except Exception:
                log.exception("a heartbeat failed; the next one tells of what it could not")
            self._recorder.put_back(set(left))
            return False

    def send_final(
        self,
        phase: str,
        reason: str,
        winner: Winner | None,
        patience_s: float,
        *,
        blocked: bool = False,
        controls: Controls | None = None,
    ) -> bool:
        """The final heartbeat, tried again for `patience_s`. True when the service took it.

        `controls` are those under which the search ended: newer ones may ask for more.
        """
        self._stopped.set()
        # Before the phase: the thread may be about to beat once more.
        self.reason, self._winner, self._blocked, self._controls = reason, winner, blocked, controls
        self.phase = phase
        deadline, pause = time.monotonic() + patience_s, threading.Event()
        while not self.fenced:
            if self.send():
                return True
            if time.monotonic() >= deadline:
                return False
            pause.wait(min(1.0, patience_s))
        return False

    def _changed(self, ids: MlflowIds) -> list[int]:
        """Trials with something new. MLflow may have runs of trials that the journal has lost."""
        told_anew = {number for number, run in ids.runs.items() if self._told_runs.get(number) != run}
        return sorted(self._recorder.take_changed() | told_anew & self._recorder.numbers())

    def _take(self, answer: httpx.Response) -> bool:
        """Obey an answer. What a proxy says for a service that is away fences nobody."""
        if answer.status_code in FENCED and answer.headers.get("content-type", "").startswith(PROBLEM):
            log.error("this attempt is not wanted any more: %s %s", answer.status_code, answer.text)
            self.fenced = True
            return False
        if answer.status_code != 200:
            log.warning("the service answered %s: %s", answer.status_code, answer.text[:500])
            return False
        orders = Directives.model_validate_json(answer.content)
        self.orders = orders.model_copy(update={"controls": orders.controls or self.orders.controls})
        return True

    def _message(self, numbers: list[int], ids: MlflowIds, phase: str, whole: bool) -> Heartbeat:
        lines = [
            self._recorder.update_of(number).model_copy(update={"mlflow_run_id": ids.runs.get(number)})
            for number in numbers
        ]
        return Heartbeat.model_validate(
            {
                "phase": phase if whole or phase in ACTIVE_PHASES else "finalizing",
                "reason": self.reason if whole else "",
                "blocked": self._blocked and whole,
                "trials": lines,
                "mlflow_experiment_id": ids.experiment,
                "mlflow_run_id": ids.parent,
                "winner": self._winner if whole else None,
                "controls": self._controls if whole else None,
            }
        )

    def _post(self, message: Heartbeat) -> httpx.Response:
        return self._client.post(
            f"{API_PREFIX}/attempts/{self._launch.attempt_id}/heartbeat",
            content=message.model_dump_json(),
            headers={"Content-Type": "application/json"},
        )
