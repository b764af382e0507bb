"""A notification survives that the service is killed: it is delivered at least once, each time with the same id."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.service_process import service_process
from tests.support.webhook_receiver import await_true, webhook_receiver

API = "/api/v1/webhooks"
KEY = "c2VjcmV0" * 5 + "c2U="


@pytest.fixture
def settings(tmp_path: Path, migrated_file: Path) -> dict[str, str]:
    shutil.copy(migrated_file, tmp_path / "rung.db")
    return {
        "RUNG_HOME": str(tmp_path),
        "RUNG_AUTH": "open",
        "RUNG_SECRET_KEY": KEY,
        "RUNG_WEBHOOK_ALLOWED_TARGETS": "127.0.0.1",
        "RUNG_MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "RUNG_RECONCILE_S": "0.2",
        "RUNG_LEASE_S": "1",
    }


@pytest.mark.slow
def test_a_service_that_is_killed_delivers_after_its_next_start(settings: dict[str, str]) -> None:
    with webhook_receiver() as receiver:
        with service_process({**settings, "RUNG_RECONCILE": "false"}) as client:
            made = client.post(API, json={"url": receiver.url}).json()
            asked = client.post(f"{API}/{made['id']}/test").json()
        # It was killed after the commit, before it sent anything.
        assert receiver.received() == []
        receiver.behave("hang")
        with service_process(settings) as client:
            [first] = receiver.await_received(1)
        # It was killed after it had sent it, before it had written what came of it.
        receiver.behave()
        with service_process(settings) as client:
            first, second = receiver.await_received(2)
            assert first.id == second.id == asked["id"]
            assert (first.body, json.loads(first.body)["type"]) == (second.body, "webhook.test")
            one = client.post("/api/v1/experiments", json={"name": "night", "resources": {"gpus_per_trial": 0}}).json()[
                "id"
            ]
            third = receiver.await_received(3)[-1]
            assert json.loads(third.body)["data"]["experiment_id"] == one

            def ended() -> bool:
                items = client.get(f"{API}/{made['id']}/deliveries").json()["items"]
                return [item["state"] for item in items] == ["delivered", "delivered"]

            await_true(ended)
