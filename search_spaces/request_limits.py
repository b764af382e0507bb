"""RequestLimits: how long one request may take in all, and how much of an answer is read.

The timeouts of HTTP libraries are those of one read: a server that sends a byte a second is never late. So each request
runs in a thread of its own, which is abandoned at the deadline. Owns how many may be abandoned. It must not know
what is asked, or by which library.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

MAX_ANSWER_BYTES = 32_000_000  # a page of 25,000 points of MLflow, or 10,000 nodes of Ray, is below 10 MB
MAX_ABANDONED = 8  # threads that wait for a server which is never done

T = TypeVar("T")
#: Reads the chunks of an answer, within the limits.
Read = Callable[[Iterable[bytes]], bytes]


class AnswerTooLargeError(Exception):
    """A server sends more than anything that Rung asks for."""


class RequestLimits:
    """The limits of the requests to one server. `timeout_s` is that of requests that state none; `max_bytes` is the
    largest answer, MAX_ANSWER_BYTES by default."""

    def __init__(self, timeout_s: float, max_bytes: int | None = None) -> None:
        self.timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._abandoned = 0

    def run(self, request: Callable[[Read], T], timeout_s: float | None = None) -> T:
        """What `request` returns or raises; it reads its answer with the function that it receives.

        Raises TimeoutError at the deadline, and at once while too many earlier requests have not ended.
        """
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        with self._lock:
            if self._abandoned >= MAX_ABANDONED:
                raise TimeoutError(f"{self._abandoned} earlier requests have not ended")
        max_bytes = MAX_ANSWER_BYTES if self._max_bytes is None else self._max_bytes
        deadline, done = time.monotonic() + limit_s, Future[T]()

        def work() -> None:
            try:
                done.set_result(request(lambda chunks: _joined(chunks, deadline, max_bytes)))
            except BaseException as error:  # the thread that waits receives it
                done.set_exception(error)

        threading.Thread(target=work, name="request", daemon=True).start()
        try:
            return done.result(limit_s)
        except TimeoutError as error:
            if done.done():  # the request itself reports a timeout, or has just ended
                return done.result()
            with self._lock:
                self._abandoned += 1
            done.add_done_callback(self._ended)
            raise TimeoutError(f"its answer was not complete after {limit_s:g} s") from error

    def _ended(self, _done: Future[T]) -> None:
        with self._lock:
            self._abandoned -= 1


def _joined(chunks: Iterable[bytes], deadline: float, max_bytes: int) -> bytes:
    """The whole of an answer that arrives in chunks, each as soon as it is there."""
    kept, size = [], 0
    for chunk in chunks:
        kept.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise AnswerTooLargeError(f"its answer is longer than {max_bytes} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError("its answer was not complete in time")
    return b"".join(kept)
