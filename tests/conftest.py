"""What all tests share: one real stack at a time, and a real PostgreSQL for the tests that ask for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.postgres import Postgres, running_postgres

#: A test has no time limit of its own: a busy machine is no defect of the code.
settings.register_profile("rung", deadline=None)
settings.load_profile("rung")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start a whole stack run in one process, one after another, while the other process runs unit tests."""
    for item in items:
        if item.get_closest_marker("e2e"):
            item.add_marker(pytest.mark.xdist_group("stack"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server per test process; each test that asks for a database gets one of its own on it."""
    with running_postgres() as server:
        yield server
