"""What the tests of the driver share: journals that are closed again, a small experiment, its launch."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from search_spaces.experiment import ExperimentSpec, Objective
from search_spaces.protocol import Heartbeat, LaunchConfig
from workers.state.recorder import Recorder

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from tests.support.searches import Search

OpenRecorder = Callable[..., Recorder]


class Stopwatch:
    """Monotonic seconds, set by hand."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Service:
    """Remembers what it was told; answers what it is set to. May be stopped and started on the same port."""

    def __init__(self) -> None:
        self.heard: list[Heartbeat] = []
        self.headers: dict[str, str] = {}
        self.path = ""
        self.answer: tuple[int, str, bytes] = (200, "application/json", b'{"slots": 3}')
        self.spoken = threading.Condition()
        self.port = 0
        self._server: HTTPServer | None = None
        self.start()

    def start(self) -> None:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with service.spoken:
                    service.headers, service.path = dict(self.headers), self.path
                    service.heard.append(Heartbeat.model_validate(json.loads(body)))
                    service.spoken.notify_all()
                status, kind, content = service.answer
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self._server = HTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def told(self) -> list[int]:
        """Numbers of the trials in the last heartbeat."""
        return [line.trial for line in self.heard[-1].trials]


class Losing:
    """A real client of which some calls fail: before they are done, or after, when only the answer is lost."""

    def __init__(self, real: MlflowClient, method: str, on: int, after: bool) -> None:
        self._real, self._method, self._on, self._after = real, method, on, after
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name != self._method:
            return real

        def call(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls != self._on:
                return real(*arguments, **named)
            if self._after:
                real(*arguments, **named)
            from mlflow.exceptions import MlflowException

            raise MlflowException("Connection reset by peer")

        return call


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
def stopwatch() -> Stopwatch:
    """What the journals of `open_recorder` measure held slots with."""
    return Stopwatch()


@pytest.fixture
def open_recorder(tmp_path: Path, stopwatch: Stopwatch) -> Iterator[OpenRecorder]:
    """`open_recorder(attempt)`: the journal in `tmp_path`, opened at second 1000 * attempt."""
    opened: list[Recorder] = []

    def open_(attempt: int = 1, objective: Objective | None = None) -> Recorder:
        path = tmp_path / "journal.jsonl"
        opened.append(Recorder(path, objective or Objective(), attempt, lambda: 1000.0 * attempt, stopwatch))
        return opened[-1]

    yield open_
    for recorder in opened:
        recorder.close()


@pytest.fixture
def experiment() -> Callable[..., ExperimentSpec]:
    """`experiment(field=...)`: a spec with a conditional space; what is given replaces what is here."""

    def build(**changes: Any) -> ExperimentSpec:
        document: dict[str, Any] = {
            "name": "tested",
            "project": "driver",
            "search_space": {
                "model": {"kind": "cnn", "width": 8, "depth": 2},
                "optimizer": {
                    "choice": [
                        {"kind": "adam", "lr": {"loguniform": [1e-4, 1e-1]}},
                        {"kind": "sgd", "lr": {"loguniform": [1e-3, 1.0]}, "momentum": {"choice": [0.0, 0.9]}},
                    ]
                },
                "batch_size": {"choice": [64, 128]},
                "label_smoothing": {"quniform": [0.0, 0.3, 0.1]},
            },
            "searcher": {"kind": "random", "num_samples": 12},
            "max_epochs": 4,
            "early_stopping": {"kind": "asha", "grace_period": 1, "reduction_factor": 2},
            "seed": 5,
        }
        return ExperimentSpec.model_validate(document | changes)

    return build


@pytest.fixture
def search(
    tmp_path: Path, experiment: Callable[..., ExperimentSpec], open_recorder: OpenRecorder
) -> Callable[..., Search]:
    """`search(attempt, field=...)`: an attempt at such an experiment, without Ray, in `tmp_path`."""
    from tests.support.searches import Search

    def begin(attempt: int = 1, **changes: Any) -> Search:
        spec = experiment(**changes)
        return Search(spec, open_recorder(attempt, spec.objective), tmp_path)

    return begin


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, made once."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def client(tmp_path: Path, migrated: Path) -> Iterator[MlflowClient]:
    """Of MLflow, over a database of its own."""
    import mlflow
    from mlflow import MlflowClient

    shutil.copy(migrated, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)  # the store looks logged models up there
    client = MlflowClient(uri)
    client.create_experiment("driver", artifact_location=(tmp_path / "artifacts").as_uri())
    yield client
    mlflow.set_tracking_uri(before)


@pytest.fixture
def losing() -> type[Losing]:
    return Losing


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., LaunchConfig]:
    """`launch(field=...)`: what a driver is told at its start, with addresses where nobody answers."""

    def build(**changes: Any) -> LaunchConfig:
        told: dict[str, Any] = {
            "experiment_id": "abc",
            "attempt": 1,
            "attempt_id": "exp-abc-a1",
            "service_url": "http://127.0.0.1:9",
            "token": "secret",
            "slots": 2,
            "mlflow_tracking_uri": "http://127.0.0.1:9",
            "storage": str(tmp_path),
            "data_root": str(tmp_path / "data"),
            "cache_root": str(tmp_path / "cache"),
        }
        return LaunchConfig.model_validate(told | changes)

    return build
