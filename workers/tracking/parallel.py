"""Parallel: several requests at once, on threads that do not keep the process alive, because a request may hang.

Owns the threads. It must not know what is sent.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def for_each(items: Sequence[T], action: Callable[[T], None], at_once: int) -> None:
    """Call `action` with each item, at most `at_once` at a time.

    Returns when all calls have. Raises the first error; items that were not begun by then are left out.
    """
    left, errors = deque(items), list[BaseException]()

    def work() -> None:
        while not errors:
            try:
                item = left.popleft()
            except IndexError:
                return
            try:
                action(item)
            except BaseException as error:
                errors.append(error)

    others = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(items)) - 1)]
    for thread in others:
        thread.start()
    work()
    for thread in others:
        thread.join()
    if errors:
        raise errors[0]
