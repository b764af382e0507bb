"""What an epoch costs in a folder and in a bucket: its checkpoint, its entry in the journal, a look for a stop, and how
long it waits for the upload of its checkpoint."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from search_spaces.layout import NAMES
from search_spaces.storage.base import ExperimentStorage, open_root, open_storage
from tests.faults.proxy import Proxy
from tests.support.s3_server import BUCKET, running_s3
from workers.state import checkpoints
from workers.trial.saving import EpochSaver

EPOCHS = 40
TRAINED_EPOCHS, EPOCH_S = 15, 1.0
ROUND_TRIP_S = 0.03
FAR_PORT = 18991
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
        checkpoints.store_last(checkpoints.encoded(state), storage.artifacts, trial)
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


class Far(Proxy):
    """The way to a server at a distance: each request takes ROUND_TRIP_S more."""

    def _interfere(self, block: bytes, sink: Any) -> None:
        if block.startswith((b"GET ", b"HEAD ", b"PUT ", b"POST ", b"DELETE ")):
            time.sleep(ROUND_TRIP_S)


def waiting(storage: ExperimentStorage, megabytes: int, *, at_once: bool) -> float:
    """Seconds that an epoch waits at its end, the median. All epochs improve, so each has two checkpoints."""
    import torch

    weights = torch.rand(megabytes * 2**18)
    training = SimpleNamespace(epoch=0, best_epoch=0, best_right=None, state_dict=lambda: {"weights": weights})
    training.spec = SimpleNamespace(model_dump_json=lambda: "{}")
    training.model = SimpleNamespace(state_dict=training.state_dict)
    saver = EpochSaver(storage.artifacts, NAMES.trial(0), last_is_usable=False)
    waited = []
    for _ in range(TRAINED_EPOCHS):
        time.sleep(EPOCH_S)
        training.epoch = training.best_epoch = training.epoch + 1
        began = time.perf_counter()
        saver.save(cast(Any, training), {"validation_loss": 0.5}, at_once=at_once)
        waited.append(time.perf_counter() - began)
    saver.finish()
    return statistics.median(waited)


def test_how_long_an_epoch_waits_for_its_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_s3() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        far = Far(FAR_PORT, (int(variables["AWS_ENDPOINT_URL"].rpartition(":")[2]),))
        monkeypatch.setenv("AWS_ENDPOINT_URL", far.url)
        for megabytes in (1, 10):
            folder = waiting(opened(f"{tmp_path}/w{megabytes}"), megabytes, at_once=True)
            before = waiting(opened(f"s3://{BUCKET}/b{megabytes}"), megabytes, at_once=True)
            now = waiting(opened(f"s3://{BUCKET}/n{megabytes}"), megabytes, at_once=False)
            figures = (
                f"folder {folder * 1000:.1f} ms  bucket {before * 1000:.1f} ms, in the background {now * 1000:.1f} ms"
            )
            print(f"\n2 checkpoints of {megabytes} MB, {ROUND_TRIP_S * 1000:.0f} ms away: {figures}")
        far.close()
