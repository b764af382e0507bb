"""Liveness and readiness."""

from __future__ import annotations

import httpx

from service.scheduling.reconciler import Reconciler
from tests.support.memory_launcher import MemoryLauncher

EXPERIMENTS = "/api/v1/experiments"


def test_health_and_readiness(client: httpx.Client, reconciler: Reconciler, launcher: MemoryLauncher) -> None:
    for prefix in ("", "/api/v1"):
        assert client.get(f"{prefix}/healthz").json() == {"status": "ok"}
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["ready"], ready.json()["ray"]["ok"]) == (200, True, False)
    reconciler.reconcile_once()
    assert client.get("/readyz").json()["ray"] == {"ok": True, "detail": "", "why": ""}
    launcher.unreachable = True
    reconciler.reconcile_once()
    assert client.get("/readyz").json()["ray"] == {
        "ok": False,
        "detail": "Ray does not answer; the log of the service says why",
        "why": "Ray does not answer; the log of the service says why",
    }
    assert client.get("/api/v1/cluster").json()["detail"] == "Ray does not answer; the log of the service says why"
    why = "MLflow does not answer; the log of the service says why"
    assert client.get("/readyz").json()["mlflow"] == {"ok": False, "detail": why, "why": why}
