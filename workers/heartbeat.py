"""Heartbeat: the driver's only talk with the service: progress up, orders down.

Owns the thread that posts, and the newest orders. When the service is away the driver goes on, and what
changed meanwhile is said when it is back. An answer that this attempt is no longer the current one sets
`fenced`: the driver must stop and write nothing more. It must not know Ray or MLflow.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from search_spaces.protocol import Heartbeat, Launch, Orders, Winner
from workers.progress import Progress

log = logging.getLogger("rung.heartbeat")
SHORTEST_GAP_S = 0.5
FENCED = frozenset({401, 403, 404, 409, 410})


@dataclass(frozen=True)
class MlflowIds:
    """Where the curves go; None until MLflow has answered."""

    experiment: str | None
    parent: str | None
    runs: dict[int, str]


class Heart(threading.Thread):
    """Beats every `launch.heartbeat_s`, and soon after `wake`."""

    def __init__(self, launch: Launch, progress: Progress, mlflow_ids: Callable[[], MlflowIds]) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._launch = launch
        self._progress = progress
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
        self.phase: str = "starting"
        self.orders = Orders(slots=launch.slots)
        self.fenced = False

    def run(self) -> None:
        while not self._stopped.is_set() and not self.fenced:
            self.beat()
            self._stopped.wait(SHORTEST_GAP_S)
            self._wake.wait(self._launch.heartbeat_s - SHORTEST_GAP_S)
            self._wake.clear()

    def wake(self) -> None:
        self._wake.set()

    def beat(self, reason: str = "", winner: Winner | None = None) -> bool:
        """One heartbeat. True when the service took it."""
        with self._sending:
            changed = self._progress.take_changed()
            try:
                answer = self._post(self._message(changed, reason, winner))
            except httpx.HTTPError as error:
                log.warning("the service did not answer: %r", error)
                self._progress.put_back(changed)
                return False
            if answer.status_code in FENCED:
                log.error("this attempt is not wanted any more: %s %s", answer.status_code, answer.text)
                self.fenced = True
                return False
            if answer.status_code != 200:
                log.warning("the service answered %s: %s", answer.status_code, answer.text)
                self._progress.put_back(changed)
                return False
            self.orders = Orders.model_validate_json(answer.content)
            return True

    def last(self, phase: str, reason: str, winner: Winner | None, patience_s: float) -> bool:
        """The final heartbeat, tried again for `patience_s`. True when the service took it."""
        self._stopped.set()
        self.phase = phase
        waited = 0.0
        while not self.fenced:
            if self.beat(reason, winner):
                return True
            if waited >= patience_s:
                return False
            self._wake.wait(1.0)
            waited += 1.0
        return False

    def _message(self, changed: set[int], reason: str, winner: Winner | None) -> Heartbeat:
        ids = self._mlflow_ids()
        lines = [
            self._progress.line(number).model_copy(update={"mlflow_run_id": ids.runs.get(number)})
            for number in sorted(changed)
        ]
        return Heartbeat.model_validate(
            {
                "phase": self.phase,
                "reason": reason,
                "trials": lines,
                "mlflow_experiment_id": ids.experiment,
                "mlflow_run_id": ids.parent,
                "winner": winner,
            }
        )

    def _post(self, message: Heartbeat) -> httpx.Response:
        return self._client.post(
            f"/api/v1/attempts/{self._launch.attempt_id}/heartbeat",
            content=message.model_dump_json(),
            headers={"Content-Type": "application/json"},
        )
