"""MLflow's own server on a free port, without Ray or the service."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

START_S = 240  # it creates its database first, on a machine that may be busy
POLL_S = 0.2


#: The administrator of an MLflow with workspaces.
ADMIN, PASSWORD = "rung", "correct horse battery"
AUTH = """[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///auth.db
authorization_function = rung_mlflow.auth:authenticate
auth_cache_ttl_seconds = 3600
"""


@contextmanager
def running_mlflow(home: Path, service: str = "", port: int = 0) -> Iterator[str]:
    """Its address, for the length of the block, on a free port by default. Its database and artifacts are in `home`.

    With the URL of a service, it has workspaces, and asks that service who may do what.
    """
    address = f"http://127.0.0.1:{port or free_port()}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1",
        "--port", address.rpartition(":")[2],
        "--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}",
        "--artifacts-destination", str(home / "artifacts"),
    ]  # fmt: skip
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    if service:
        command += ["--app-name", "basic-auth", "--enable-workspaces"]
        (home / "auth.ini").write_text(AUTH)
        environment |= {
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "RUNG_SERVICE_URL": service,
            "MLFLOW_AUTH_CONFIG_PATH": str(home / "auth.ini"),
            "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "0" * 32,
            "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
        }
    with serving_process(command, f"{address}/health", home / "server.log", environment):
        yield address


@contextmanager
def serving_process(command: list[str], url: str, log: Path, environment: dict[str, str]) -> Iterator[None]:
    """A process that answers 200 at `url` for the length of the block. Raises TimeoutError if it never does."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=log.parent)
    try:
        _wait(process, url, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    with httpx.Client(trust_env=False) as http:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if http.get(url).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(POLL_S)
    raise TimeoutError(f"{url} does not answer:\n{log.read_text(errors='replace')[-3000:]}")
