"""The probe reports within half a second whether MLflow answers, or the storage."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.adapters.mlflow_client import MlflowClient
from service.adapters.probe import Probe
from service.settings import Settings


@contextmanager
def probing(home: Path, uri: str, **more: Any) -> Iterator[Probe]:
    client = MlflowClient(Settings(home=home, mlflow_tracking_uri=uri, **more))
    probe = Probe(f"MLflow at {client.uri}", client.ping)
    yield probe
    probe.close()
    client.close()


def test_a_slow_server_is_asked_once_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with probing(tmp_path, uri, mlflow_timeout_s=3600) as probe:
            reasons = [probe.unavailable_reason() for _ in range(3)]
            connection, _ = silent.accept()
            silent.settimeout(0)
            with pytest.raises(BlockingIOError):
                silent.accept()
            connection.close()
    assert reasons == [f"MLflow at {uri} did not answer within 0.5 s"] * 3


def test_an_error_without_a_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise httpx.ReadTimeout("")

    monkeypatch.setattr(httpx.Client, "send", fail)
    with probing(tmp_path, "http://127.0.0.1:9") as probe:
        assert probe.unavailable_reason() == "MLflow at http://127.0.0.1:9 does not answer: ReadTimeout"


def test_a_server_that_is_down_is_reported_without_the_password(tmp_path: Path) -> None:
    with probing(tmp_path, "http://ada:se%40cret@127.0.0.1:9") as probe:
        reason = probe.unavailable_reason()
    assert reason.startswith("MLflow at http://127.0.0.1:9 does not answer: ")


def test_a_storage_that_hangs_is_asked_once_and_keeps_nobody_waiting() -> None:
    asked, released = [], threading.Event()

    def hang() -> None:
        asked.append(1)
        released.wait()
        raise OSError(errno.ESTALE, "Stale file handle", "/mnt")

    probe = Probe("RUNG_STORAGE_ROOT /mnt", hang)
    reasons = [probe.unavailable_reason() for _ in range(3)]
    assert (reasons, len(asked)) == (["RUNG_STORAGE_ROOT /mnt did not answer within 0.5 s"] * 3, 1)
    released.set()
    assert "Stale file handle" in probe.unavailable_reason()
    probe.close()
