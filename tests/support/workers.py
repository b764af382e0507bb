"""What tests of the workers share: experiments, launch configs, a stopwatch, a service that takes heartbeats."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import Heartbeat, LaunchConfig
from workers.state.recorder import Recorder

#: `build(field=...)`: a spec or config with other values of these fields.
BuildSpec = Callable[..., ExperimentSpec]
BuildLaunch = Callable[..., LaunchConfig]
#: `open_(attempt, objective)`: the recorder of an attempt, over one journal.
OpenRecorder = Callable[..., Recorder]


def experiment_spec(**changes: Any) -> ExperimentSpec:
    """An experiment with a conditional search space; `changes` replace its fields."""
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


def launch_config(folder: Path, **changes: Any) -> LaunchConfig:
    """What a driver reads at its start, with addresses at which nothing answers; `changes` replace its fields."""
    document: dict[str, Any] = {
        "experiment_id": "abc",
        "attempt": 1,
        "attempt_id": "exp-abc-a1",
        "service_url": "http://127.0.0.1:9",
        "token": "secret",
        "slots": 2,
        "mlflow_tracking_uri": "http://127.0.0.1:9",
        "storage": str(folder),
        "data_root": str(folder / "data"),
        "cache_root": str(folder / "cache"),
    }
    return LaunchConfig.model_validate(document | changes)


class Stopwatch:
    """Monotonic seconds, set by hand."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class HeartbeatService:
    """Records the heartbeats that it receives, and sends prepared answers. It can be restarted on the same port."""

    def __init__(self) -> None:
        self.heard: list[Heartbeat] = []
        self.headers: dict[str, str] = {}
        self.path = ""
        self.answer: tuple[int, str, bytes] = (200, "application/json", b'{"slots": 3}')
        self.largest_bytes = 2**22
        self.spoken = threading.Condition()
        self.port = 0
        self._server: HTTPServer | None = None
        self.start()

    def start(self) -> None:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if len(body) > service.largest_bytes:
                    self.send_response(413)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
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
