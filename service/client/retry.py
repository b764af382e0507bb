"""Retry: how the SDK waits for a service that is unreachable.

Owns the pauses between two tries, and when it stops trying. It must not know what is tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from service.contract.errors import UnavailableError

T = TypeVar("T")
#: Called before each pause with the error and the seconds that are left.
Waiting = Callable[[UnavailableError, float], object]
#: Seconds between two tries: the first pause, doubled up to the last. A service that restarts needs a few seconds.
FIRST_PAUSE_S, LAST_PAUSE_S = 0.25, 2.0


def retry(
    call: Callable[[], T],
    window_s: float,
    *,
    waiting: Waiting | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """What `call` returns, tried again while it raises UnavailableError, for up to `window_s` after its first failure.

    A call that fails only after `window_s`, by a timeout, is tried once more. Use it only for idempotent calls.
    `waiting` is called before each pause.
    """
    deadline: float | None = None
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return call()
        except UnavailableError as error:
            now = clock()
            deadline = now + window_s if deadline is None else deadline
            if now + pause_s > deadline:
                raise
            if waiting is not None:
                waiting(error, deadline - now)
        sleep(pause_s)
        pause_s = min(2 * pause_s, LAST_PAUSE_S)
