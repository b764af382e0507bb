"""Repetition: a request to MLflow that fails is repeated by itself, not with the sequence that it belongs to.

Owns which requests may be repeated as they are, for how long that is tried, and how long one request may take in all.
It must not know what is sent, nor which errors pass.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from search_spaces.request_limits import RequestLimits

T = TypeVar("T")

#: Each of these makes one more object. Before one is repeated, the caller looks for what the earlier request has left.
CREATIONS = frozenset({"create_run", "create_logged_model", "create_model_version"})
#: Requests that carry a file.
UPLOADS = frozenset({"log_artifact", "log_model_artifact"})
#: For one request: MLflow's own timeout is that of one read, and a server that sends a byte a second is never late.
REQUEST_S, UPLOAD_S = 60.0, 1800.0
#: Between the first two tries; doubled each time. A request that was lost by chance costs no more than this.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
#: If the server does not answer for so long, it is not by chance, and the caller must see that.
PATIENCE_S = 5.0


def repeat(action: Callable[[], T], passes: Callable[[Exception], bool], wait: Callable[[float], object]) -> T:
    """The result of `action`, called again for PATIENCE_S while it raises an error that `passes`."""
    until, pause_s = time.monotonic() + PATIENCE_S, FIRST_PAUSE_S
    while True:
        try:
            return action()
        except Exception as error:
            if not passes(error) or time.monotonic() + pause_s > until:
                raise
        wait(pause_s)
        pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)


class RepeatingClient:
    """A client of MLflow whose methods have a time limit and repeat their request, except those of CREATIONS.

    `allowed` is called before each try, and raises where nothing may be sent any more. `closing` ends a pause.
    """

    def __init__(
        self,
        client: Any,
        allowed: Callable[[], None],
        passes: Callable[[Exception], bool],
        closing: threading.Event,
        limits: RequestLimits,
    ) -> None:
        self._client, self._allowed, self._passes, self._closing = client, allowed, passes, closing
        self._limits = limits

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not callable(method):
            return method

        def call(*arguments: Any, **named: Any) -> Any:
            def send() -> Any:
                self._allowed()
                return self._limits.run(lambda _: method(*arguments, **named), UPLOAD_S if name in UPLOADS else None)

            if name in CREATIONS:
                return send()
            return repeat(send, self._passes, self._closing.wait)

        return call
