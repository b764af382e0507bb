"""The row of the fault table whose storage is a bucket: a driver that is killed there."""

from __future__ import annotations

import os
import signal

import pytest

from search_spaces.storage.base import open_storage
from tests.faults.experiments import driver_of, serial, wait_for_end, wait_for_epochs
from tests.faults.invariants import assert_nothing_lost, finished
from tests.faults.stand import running_stand
from tests.support.postgres import why_missing
from tests.support.s3_server import BUCKET, running_s3

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(1200)]

TRIALS = 3


@pytest.mark.skipif(bool(why_missing()), reason=why_missing() or "")
def test_kill_of_a_driver_whose_storage_is_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_s3() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with running_stand(STORAGE_ROOT=f"s3://{BUCKET}/team") as stand:
            like = wait_for_end(stand, stand.rung.submit(serial("undisturbed", trials=TRIALS)).id)
            submitted = stand.rung.submit(serial("driver-killed", trials=TRIALS))
            wait_for_epochs(stand, submitted.id, 2)
            assert "epoch 1: " in stand.rung.logs(submitted.id, trial=0).text, "while it runs"
            before = finished(stand, submitted.id)
            os.kill(driver_of(stand, submitted.id), signal.SIGKILL)
            wait_for_end(stand, submitted.id)
            view = assert_nothing_lost(stand, submitted.id, TRIALS, like=like.id, before=before)
            assert view.attempt == 2
            assert stand.rung.logs(submitted.id, attempt=1).text
            used = stand.rung.storage(submitted.id).bytes_by_kind
            assert all(used[kind] for kind in ("checkpoints", "model", "logs", "journal")), used
            assert not (stand.home / "storage").exists()
            stand.rung.delete(submitted.id)
            left = open_storage(stand.address(submitted.id)).artifacts
            stand.wait_until(lambda: not list(left.list()), "the files are deleted")
