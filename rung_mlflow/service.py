"""Service: what Rung's service says of the tokens that are sent to MLflow.

Owns the requests to the service, and for how long its answers are remembered. MLflow asks for some of its routes in the
one thread that serves all requests, so what a stranger can make it wait for is bounded. It must not know MLflow.
"""

from __future__ import annotations

import hashlib
import math
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

import httpx

REMEMBERED_S = 30.0
MOST_REMEMBERED = 10_000
TIMEOUT_S = 3.0
#: For so long after it did not answer, the service is not asked again.
OUTAGE_S = 3.0
#: Tokens that were not known to open anything, about which the service is asked in one second.
MOST_NEW = 20
#: Drivers name their attempt where people may write any name.
ATTEMPT = re.compile(r"exp-[a-z0-9]{1,16}-a\d{1,9}", re.ASCII)
#: Answers of the service to a token that opens nothing.
REFUSED = frozenset({401, 403, 404, 409})
Workspaces = Mapping[str, str]


class UnansweredError(Exception):
    """The service does not answer, or not as Rung does."""


class Service:
    """What Rung's service says of tokens. An answer that is remembered costs no request."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT_S)
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[float, Workspaces | None]] = OrderedDict()
        self._asked: deque[float] = deque(maxlen=MOST_NEW)
        self._outage = (-math.inf, "")

    def workspaces(self, name: str, token: str) -> Workspaces | None:
        """The workspaces that a token opens, each with the user to act as; None for a token that opens nothing.

        `name`: what was sent as the name of the sender. Raises UnansweredError.
        """
        if not (token and token.isascii() and token.isprintable()):
            return None
        path = f"/api/v1/attempts/{name}/mlflow" if ATTEMPT.fullmatch(name) else "/api/v1/auth/mlflow"
        key = hashlib.sha256(f"{path} {token}".encode("utf-8", "surrogateescape")).hexdigest()
        with self._lock:
            until, known = self._known.get(key, (0.0, None))
            now = self._clock()
            if now < until:
                return known
            self._check_may_ask(now, is_new=not known)
        found = self._ask(path, token)
        with self._lock:
            self._known[key] = (self._clock() + REMEMBERED_S, found)
            self._known.move_to_end(key)  # strangers push out who has not been here for a while, not who is here
            if len(self._known) > MOST_REMEMBERED:
                self._known.popitem(last=False)
        return found

    def _check_may_ask(self, now: float, is_new: bool) -> None:
        """Raises UnansweredError while the service is unreachable, and for a new token after many others."""
        since, why = self._outage
        if now < since + OUTAGE_S:
            raise UnansweredError(why)
        if is_new:
            if len(self._asked) == MOST_NEW and now < self._asked[0] + 1:
                raise UnansweredError("too many unknown tokens are sent")
            self._asked.append(now)

    def _ask(self, path: str, token: str) -> Workspaces | None:
        try:
            answer = self._client.get(path, headers={b"Authorization": b"Bearer " + token.encode()})
            if answer.status_code in REFUSED:
                return None
            found: Any = answer.raise_for_status().json()["workspaces"]
            return {str(workspace): str(user) for workspace, user in found.items()}
        except httpx.TransportError as error:
            with self._lock:
                self._outage = (self._clock(), str(error))
            raise UnansweredError(str(error)) from error
        except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UnansweredError(str(error)) from error
