"""SingleFlight: a look at something that may hang, in a thread of its own, so that nobody else has to wait for it.

Owns that thread, and that only one look is under way. It must not know what is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Looks on demand. Close it when done."""

    def __init__(self, name: str, look: Callable[[], T]) -> None:
        self._look = look
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._pending: Future[T] | None = None

    def begin(self) -> Future[T]:
        """The look that is under way, or a new one. Returns at once."""
        pending = self._pending
        if pending is None or pending.done():
            pending = self._pending = self._pool.submit(self._look)
        return pending

    def close(self) -> None:
        """Does not wait for a look that is under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)


async def wait(looks: Iterable[Future[Any]], timeout_s: float) -> None:
    """Wait until all looks have ended, and no longer than `timeout_s`. What they raise stays in them."""
    waiting = [asyncio.wrap_future(look) for look in looks]
    try:
        await asyncio.wait(waiting, timeout=timeout_s)
    finally:
        for one in waiting:
            if not one.done():
                one.cancel()  # not the look, which runs
            elif not one.cancelled():
                one.exception()  # otherwise the event loop logs that nobody has read it
