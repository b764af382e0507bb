"""Scrapes: the metrics as text, found together and at most once a second, however many ask.

Owns how long a scrape waits: what does not answer in time is left out, and counts as unreachable. Nothing waits in a
thread of people, nor in the event loop. It must not know what the metrics are called.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from service.adapters import single_flight
from service.api import exposition
from service.api.exposition import Findings
from service.api.thread_pools import ThreadPools, run
from service.context import AppContext

#: Prometheus waits 10 s for a scrape, by default.
WAIT_S = 2.0
#: Prometheus scrapes every few seconds; several of them, or a flood of requests, share one text.
FRESH_S = 1.0

T = TypeVar("T")


class Scrapes:
    """Belongs to one event loop."""

    def __init__(self, context: AppContext, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._monotonic = monotonic
        self._taking = asyncio.Lock()
        self._taken_at = float("-inf")
        self._text = b""

    async def text(self, pools: ThreadPools) -> bytes:
        async with self._taking:
            if self._monotonic() - self._taken_at >= FRESH_S:
                found = await self._look()
                self._text = await run(pools.metrics, lambda: exposition.text(self._context, found))
                self._taken_at = self._monotonic()
            return self._text

    async def _look(self) -> Findings:
        context = self._context
        database, free = context.observations.database.begin(), context.observations.storage_free.begin()
        mlflow, storage = context.mlflow_probe.begin(), context.storage_probe.begin()
        await single_flight.wait((database, free, mlflow, storage), WAIT_S)
        return Findings(
            database=_result(database),
            storage_free_bytes=_result(free),
            mlflow_ok=_result(mlflow) == "",
            storage_ok=_result(storage) == "",
        )


def _result(look: Future[T]) -> T | None:
    """None where it has not ended yet, or failed."""
    if not look.done():
        return None
    try:
        return look.result()
    except (SQLAlchemyError, OSError):
        return None
