"""Fixtures of the end-to-end tests: one real stack for the session (Ray, MLflow and the service) on free ports.

Its home is one that version 0.1 wrote, so that every test also shows that the service works after an upgrade.
"""

from __future__ import annotations

import secrets
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from service import stack
from service.client import Client
from service.contract.home_files import MLFLOW_USER

STORED = Path(__file__).with_name("stored")
#: Shorter than the defaults: what the tests wait for is mostly the next heartbeat or the next look of the reconciler.
SHORT_TIMES = {"RUNG_HEARTBEAT_S": "0.5", "RUNG_RECONCILE_S": "0.5", "RUNG_PARK_S": "4"}


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No data set that Rung knows by name is in it."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Iterator[stack.Stack]:
    home = tmp_path_factory.mktemp("home")
    with tarfile.open(STORED / "version-0.1-home.tar.xz") as stored:
        stored.extractall(home, filter="data")
    with pytest.MonkeyPatch.context() as environment:
        for name, value in SHORT_TIMES.items():
            environment.setenv(name, value)
        with stack.running(stack.Options(home=home, num_cpus=2, data_root=data_root)) as running:
            environment.setenv("MLFLOW_TRACKING_USERNAME", MLFLOW_USER)
            environment.setenv("MLFLOW_TRACKING_PASSWORD", running.mlflow_password)
            yield running


@pytest.fixture(scope="session")
def client(up: stack.Stack) -> Iterator[Client]:
    with Client(up.addresses.service, stack.owner_token(up.home)) as rung:
        yield rung


@pytest.fixture(scope="session")
def mlflow(up: stack.Stack) -> MlflowClient:
    return MlflowClient(up.addresses.mlflow)


@pytest.fixture(scope="session")
def storage(up: stack.Stack) -> Path:
    return up.home / "storage"


@pytest.fixture
def for_local_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a process that starts a Ray of its own, which only that process may use."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # it listens on loopback only
