"""World: one running service, its reconciler, and short forms of the requests that tests send."""

from __future__ import annotations

import json
from typing import Any

import httpx

from search_spaces.protocol import attempt_id
from service.scheduling.reconciler import Reconciler
from tests.support.driver import Driver
from tests.support.memory_launcher import MemoryLauncher


class World:
    """A running service, driven by hand: tests call the reconciler, and play drivers by their heartbeats."""

    def __init__(self, client: httpx.Client, launcher: MemoryLauncher, reconciler: Reconciler) -> None:
        self.client = client
        self.launcher = launcher
        self.reconciler = reconciler

    def submit(self, **spec: Any) -> str:
        """The id of a new experiment."""
        answer = self.client.post("/api/v1/experiments", json={"name": "x", **spec})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def started(self, **spec: Any) -> str:
        """An experiment whose first driver was launched."""
        experiment_id = self.submit(**{"resources": {"gpus_per_trial": 0}, **spec})
        self.reconciler.reconcile_once()
        assert self.show(experiment_id)["attempt"] == 1
        return experiment_id

    def show(self, experiment_id: str) -> dict[str, Any]:
        view: dict[str, Any] = self.client.get(f"/api/v1/experiments/{experiment_id}").json()
        return view

    def post(self, experiment_id: str, verb: str, **headers: str) -> httpx.Response:
        """Request an action (pause, resume, cancel, archive ...), with headers such as `if_match`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(f"/api/v1/experiments/{experiment_id}/{verb}", headers=named)

    def cancel(self, experiment_id: str) -> httpx.Response:
        return self.post(experiment_id, "cancel")

    def patch(self, experiment_id: str, **patch: Any) -> httpx.Response:
        return self.client.patch(f"/api/v1/experiments/{experiment_id}", json=patch)

    def ended(self, phase: str = "completed", done: int = 3, **spec: Any) -> str:
        """An experiment whose driver completed `done` trials, evaluated the best, and sent a final heartbeat."""
        experiment_id = self.started(**spec)
        lines = [self.line(n, state="COMPLETED", best_value=0.5 + n / 100) for n in range(done)]
        self.beat(experiment_id, {"phase": "finalizing", "trials": lines})
        winner = self.winner(experiment_id) if phase == "completed" and done else None
        answer = self.beat(experiment_id, {"phase": phase, "reason": f"it {phase}", "winner": winner})
        assert answer.status_code == 200, answer.text
        return experiment_id

    def winner(self, experiment_id: str) -> dict[str, Any]:
        """Its best trial, evaluated."""
        return {**self.show(experiment_id)["best"], "test_accuracy": 0.5, "test_loss": 0.1}

    def beat(self, experiment_id: str, message: dict[str, Any] | str, attempt: int = 1) -> httpx.Response:
        """The response to a heartbeat of an attempt's driver. Text is sent as it is."""
        driver = Driver(self.client, self.launcher.launches[attempt_id(experiment_id, attempt)])
        return driver.send(message if isinstance(message, str) else json.dumps(message))

    @staticmethod
    def line(trial: int, **more: Any) -> dict[str, Any]:
        """What a heartbeat reports of a trial, by default one in its first epoch."""
        return {"trial": trial, "state": "RUNNING", "epoch": 1, "started_at": 1_700_000_000 + trial, **more}
