"""Fixtures of the end-to-end tests: one real stack for the session (Ray, MLflow and the service) on free ports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from service import stack
from service.client import Client


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stack.Stack]:
    home, no_data = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("no-data")
    with stack.running(stack.Options(home=home, num_cpus=2, data_root=no_data)) as running:
        yield running


@pytest.fixture(scope="session")
def client(up: stack.Stack) -> Iterator[Client]:
    with Client(up.addresses.service) as rung:
        yield rung


@pytest.fixture(scope="session")
def mlflow(up: stack.Stack) -> MlflowClient:
    return MlflowClient(up.addresses.mlflow)


@pytest.fixture(scope="session")
def as_a_driver(up: stack.Stack) -> dict[str, str]:
    """The environment of a process that connects to the stack's Ray as a driver does."""
    return {**up.components()["ray"].environment, "RAY_ADDRESS": f"127.0.0.1:{up.ray_ports['port']}"}


@pytest.fixture(scope="session")
def storage(up: stack.Stack) -> Path:
    return up.home / "storage"
