"""What an epoch costs in a folder and in a bucket: its checkpoint, its entry in the journal, a look for a stop."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest

from search_spaces.layout import NAMES
from search_spaces.storage.base import ExperimentStorage, open_root, open_storage
from tests.support.s3_server import BUCKET, running_s3
from workers.state import checkpoints

EPOCHS = 40
ENTRY = {
    "event": "epoch",
    "at": 1.0,
    "trial": 0,
    "epoch": 1,
    "metrics": dict.fromkeys(map(str, range(12)), 0.123456789),
}


def opened(root: str) -> ExperimentStorage:
    open_root(root).identify("a3f0")
    storage = open_storage(f"{root}/k3v9q2mz")
    storage.create()
    return storage


def cost(what: str, storage: ExperimentStorage, megabytes: int) -> None:
    import torch

    state = {"weights": torch.rand(megabytes * 2**18)}
    writer, signal, trial = storage.journal.open_writer(1), storage.stop_signal(0), NAMES.trial(0)
    storage.artifacts.write(trial.spec, b"{}")
    took: dict[str, list[float]] = {"checkpoint": [], "journal": [], "stop": []}
    for _ in range(EPOCHS):
        started = time.perf_counter()
        checkpoints.save_last(state, storage.artifacts, trial)
        saved = time.perf_counter()
        writer.append(ENTRY, sync=True)
        appended = time.perf_counter()
        assert not signal.asked()
        looked = time.perf_counter()
        for name, seconds in zip(took, (saved - started, appended - saved, looked - appended), strict=True):
            took[name].append(seconds)
    writer.close()
    medians = "  ".join(f"{name} {statistics.median(some) * 1000:.1f} ms" for name, some in took.items())
    print(f"\n{what}, {megabytes} MB: {medians}")


def test_cost_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_s3() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        for megabytes in (1, 10):
            cost("folder", opened(f"{tmp_path}/{megabytes}"), megabytes)
            cost("bucket", opened(f"s3://{BUCKET}/{megabytes}"), megabytes)
