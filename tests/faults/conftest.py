"""One stand for all rows of the fault table, and an experiment that no fault disturbed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults.experiments import ended, serial
from tests.faults.stand import Stand, postgres_is_missing, standing


@pytest.fixture(scope="session")
def everything() -> Iterator[Stand]:
    missing = postgres_is_missing()
    if missing and os.environ.get("RUNG_FAULTS") == "all":
        pytest.fail(f"the fault table cannot be run: {missing}")
    if missing:
        pytest.skip(missing)
    with standing() as stand:
        yield stand


@pytest.fixture
def stand(everything: Stand) -> Stand:
    """All parts run; what a test before has killed is back."""
    everything.whole()
    return everything


@pytest.fixture(scope="session")
def undisturbed(everything: Stand) -> Callable[..., str]:
    """The id of a finished run of `serial(**changes)` in which nothing was killed; made once for each spec."""
    known: dict[str, str] = {}

    def run(**changes: Any) -> str:
        key = repr(sorted(changes.items()))
        if key not in known:
            everything.whole()
            known[key] = ended(everything, everything.rung.submit(serial("undisturbed", **changes)).id).id
        return known[key]

    return run
