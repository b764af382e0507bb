"""What all tests share: a real PostgreSQL for the tests that ask for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.postgres import Postgres, running_postgres

#: A test has no time limit of its own: a busy machine is no defect of the code.
settings.register_profile("rung", deadline=None)
settings.load_profile("rung")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server per test process; each test that asks for a database gets one of its own on it."""
    with running_postgres() as server:
        yield server
