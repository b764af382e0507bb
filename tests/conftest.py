"""What all tests share: one thread for torch, and a real PostgreSQL for the tests that ask for one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.postgres import Postgres, running_postgres

#: Read when torch is imported, here and in the processes that tests start. The tensors of the tests are small: more
#: threads only wait for each other. (The benchmarks set their own number.)
os.environ.setdefault("OMP_NUM_THREADS", "1")

#: A test has no time limit of its own: a busy machine is no defect of the code.
settings.register_profile("rung", deadline=None)
settings.load_profile("rung")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server per test process; each test that asks for a database gets one of its own on it."""
    with running_postgres() as server:
        yield server
