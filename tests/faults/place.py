"""Place: what experiments of the fault table need to know of where they run: a stand, or hosts of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import httpx
import psycopg

from service.client import Client
from service.contract.errors import UnavailableError

T = TypeVar("T")


class Place(Protocol):
    """`rung` is a client of its service, `address` that of an experiment's storage, `query` asks `rung` or `mlflow`."""

    rung: Client

    def address(self, experiment_id: str) -> str: ...

    def query(self, database: str, statement: str, *values: object) -> list[Any]: ...

    def wait_until(
        self, condition: Callable[[], T | None], what: str, timeout_s: float = ..., look_s: float = ...
    ) -> T: ...


def wait_until(
    condition: Callable[[], T | None], what: str, timeout_s: float, look_s: float, tails: Callable[[], str]
) -> T:
    """Wait until `condition` returns a true value, and return it. Errors of unreachable parts count as false. `tails`
    are the ends of the logs."""
    deadline = time.monotonic() + timeout_s
    while True:
        result, last_error = None, ""
        try:
            result = condition()
        except (httpx.HTTPError, psycopg.Error, OSError, UnavailableError) as error:
            last_error = f": {error!r}"
        if result:
            return result
        if time.monotonic() >= deadline:
            raise AssertionError(f"timed out after {timeout_s:g} s: {what}{last_error}{tails()}")
        time.sleep(look_s)
