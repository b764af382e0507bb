"""Fixtures of the fault table: one stand for all rows, and experiments that run without a fault."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults.experiments import serial, wait_for_end
from tests.faults.stand import Stand, running_stand
from tests.support.postgres import why_missing


@pytest.fixture(scope="session")
def shared_stand() -> Iterator[Stand]:
    missing = why_missing()
    if missing and os.environ.get("RUNG_TEST_FAULTS") == "all":
        pytest.fail(f"the fault table cannot run: {missing}")
    if missing:
        pytest.skip(missing)
    with running_stand() as stand:
        yield stand


@pytest.fixture
def stand(shared_stand: Stand) -> Stand:
    """The stand with all its parts running: what an earlier test killed is started again."""
    shared_stand.restore()
    return shared_stand


@pytest.fixture(scope="session")
def undisturbed(shared_stand: Stand) -> Callable[..., str]:
    """Returns the id of a completed experiment `serial(**changes)` in which nothing was killed.

    Each spec runs once; later calls return the same experiment.
    """
    known: dict[str, str] = {}

    def run(**changes: Any) -> str:
        key = repr(sorted(changes.items()))
        if key not in known:
            shared_stand.restore()
            known[key] = wait_for_end(shared_stand, shared_stand.rung.submit(serial("undisturbed", **changes)).id).id
        return known[key]

    return run
