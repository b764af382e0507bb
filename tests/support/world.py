"""One running service, and the short ways of speaking with it that tests share."""

from __future__ import annotations

import json
from typing import Any

import httpx

from service.scheduling.reconciler import Reconciler
from tests.support.memory_launcher import MemoryLauncher


class World:
    """One running service, and the short ways of speaking with it that the tests share."""

    def __init__(self, client: httpx.Client, launcher: MemoryLauncher, reconciler: Reconciler) -> None:
        self.client = client
        self.launcher = launcher
        self.reconciler = reconciler

    def submit(self, **spec: Any) -> str:
        answer = self.client.post("/api/v1/experiments", json={"name": "x", **spec})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def started(self, **spec: Any) -> str:
        """An experiment whose first driver was launched."""
        one = self.submit(**{"resources": {"gpus_per_trial": 0}, **spec})
        self.reconciler.reconcile_once()
        assert self.show(one)["attempt"] == 1
        return one

    def show(self, experiment_id: str) -> dict[str, Any]:
        view: dict[str, Any] = self.client.get(f"/api/v1/experiments/{experiment_id}").json()
        return view

    def post(self, experiment_id: str, verb: str, **headers: str) -> httpx.Response:
        """Ask for a change: pause, resume, cancel, archive ..., under headers such as `if_match`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(f"/api/v1/experiments/{experiment_id}/{verb}", headers=named)

    def cancel(self, experiment_id: str) -> httpx.Response:
        return self.post(experiment_id, "cancel")

    def patch(self, experiment_id: str, **patch: Any) -> httpx.Response:
        return self.client.patch(f"/api/v1/experiments/{experiment_id}", json=patch)

    def ended(self, phase: str = "completed", done: int = 3, **spec: Any) -> str:
        """An experiment whose driver ran so many trials and then said its last word, with the winner if it has one."""
        one = self.started(**spec)
        lines = [self.line(n, state="COMPLETED", best_value=0.5 + n / 100) for n in range(done)]
        self.beat(one, {"phase": "finalizing", "trials": lines})
        winner = self.winner(one) if phase == "completed" and done else None
        answer = self.beat(one, {"phase": phase, "reason": f"it {phase}", "winner": winner})
        assert answer.status_code == 200, answer.text
        return one

    def winner(self, experiment_id: str) -> dict[str, Any]:
        """Its best trial, measured."""
        return {**self.show(experiment_id)["best"], "test_accuracy": 0.5, "test_loss": 0.1}

    def beat(self, experiment_id: str, message: Any, attempt: int = 1) -> httpx.Response:
        """What the driver of an attempt says; text is sent as it is."""
        attempt_id = f"exp-{experiment_id}-a{attempt}"
        return self.client.post(
            f"/api/v1/attempts/{attempt_id}/heartbeat",
            content=message if isinstance(message, str) else json.dumps(message),
            headers={
                "Authorization": f"Bearer {self.launcher.launches[attempt_id].token}",
                "Content-Type": "application/json",
            },
        )

    @staticmethod
    def line(trial: int, **more: Any) -> dict[str, Any]:
        return {"trial": trial, "state": "RUNNING", "epoch": 1, "started_at": 1_700_000_000 + trial, **more}
