"""Webhook sender: one request to a target of a webhook, within limits, to an address that was checked.

The name of a target is resolved once, its addresses are checked, and the connection goes to one of these: a name server
that answers otherwise the next time changes nothing. No redirect is followed, no proxy is used, and nothing of the
answer but its status is read. It must not know what is sent, nor when it is sent again.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from ipaddress import ip_address

import httpx

from service.adapters import connection_race
from service.domain.deliveries import Result
from service.webhook_targets import Address, AllowedTargets, Target, TargetRefusedError

#: For a name to be resolved by the system's resolver there is no limit here: it has its own.
TIMEOUT_S = 10.0  # for everything else of a try
MAX_BODY_BYTES = 2**14
MAX_INTERIM_ANSWERS = 10
MAX_ADDRESSES = 4  # of a target that are tried in one try

#: The addresses of a host name, for a port. Raises OSError.
Resolver = Callable[[str, int], list[Address]]

log = logging.getLogger(__name__)


def resolve(host: str, port: int) -> list[Address]:
    """What the system's resolver says, in its order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = (ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found)
    return list(dict.fromkeys(addresses))


class WebhookSender:
    """Any number of threads may `send` at the same time."""

    def __init__(
        self,
        allowed: AllowedTargets,
        resolver: Resolver = resolve,
        context: ssl.SSLContext | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._allowed = allowed
        self._resolver = resolver
        self._given_context = context
        self._timeout_s = timeout_s

    @cached_property
    def _context(self) -> ssl.SSLContext:
        return self._given_context or httpx.create_ssl_context()

    def send(self, url: str, body: bytes, headers: Mapping[str, str]) -> Result:
        """Post a body. What goes wrong is part of the result; nothing is raised."""
        if len(body) > MAX_BODY_BYTES:
            return Result(False, f"its body must have at most {MAX_BODY_BYTES} bytes (got {len(body)})")
        try:
            target = self._allowed.parse_url(url)
            addresses = self._resolver(target.host, target.port)
            self._allowed.check(target, addresses)
        except TargetRefusedError as error:
            return Result(False, f"its URL {error}")
        except (OSError, UnicodeError):
            return Result(False, "its host name could not be resolved")
        return self._post(target, addresses[:MAX_ADDRESSES], body, headers)

    def _post(self, target: Target, addresses: list[Address], body: bytes, headers: Mapping[str, str]) -> Result:
        with _deadline(self._timeout_s) as deadline:
            try:
                context = self._context if target.scheme == "https" else None
                connection = _PinnedConnection(target, addresses, context, deadline)
                given = {**headers, "Host": target.authority, "Connection": "close", "Accept": "*/*"}
                try:
                    connection.request("POST", target.path, body, given)
                    status = connection.getresponse().status
                    deadline.check()  # an answer that is cut off looks like a short one
                finally:
                    connection.close()
            except (OSError, http.client.HTTPException) as error:
                log.info("%s: %r", target.origin, error)
                return Result(False, _why(error, deadline))
        if 200 <= status < 300:
            return Result(True, f"answered {status}", status)
        hint = ": redirects are not followed" if 300 <= status < 400 else ""
        return Result(False, f"answered {status}{hint}", status)


class _Deadline:
    """Ends the connection that it watches when the time is over: the timeouts of sockets are those of one read."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.is_over = False
        self._end_at = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._watched: socket.socket | None = None

    def watch(self, connection: socket.socket) -> None:
        """Raises TimeoutError if the time is over already."""
        with self._lock:
            self._watched = connection
        self.check()

    def check(self) -> None:
        """Raises TimeoutError if the time is over."""
        if self.is_over:
            raise TimeoutError

    def left_s(self) -> float:
        return max(0.0, self._end_at - time.monotonic())

    def end(self) -> None:
        with self._lock:
            self.is_over = True
            if self._watched is not None:
                with contextlib.suppress(OSError):  # it has ended
                    # The method of an encrypted connection would first make it a plain one.
                    socket.socket.shutdown(self._watched, socket.SHUT_RDWR)


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[_Deadline]:
    deadline = _Deadline(seconds)
    timer = threading.Timer(seconds, deadline.end)
    timer.daemon = True
    timer.start()
    try:
        yield deadline
    finally:
        timer.cancel()
        timer.join()


class _Response(http.client.HTTPResponse):
    """The final answer: http.client reads over no interim answer but 100 (RFC 9110, 15.2)."""

    def begin(self) -> None:
        for _ in range(MAX_INTERIM_ANSWERS):
            super().begin()
            if not 102 <= self.status < 200:  # after 101, the connection is no longer one of HTTP
                return
            self.headers = self.msg = None  # type: ignore[assignment]  # begin() reads only while there are none
        raise http.client.HTTPException("too many interim answers")


class _PinnedConnection(http.client.HTTPConnection):
    """A connection to a target at one of these addresses, with the certificate of the target's name."""

    response_class = _Response

    def __init__(
        self, target: Target, addresses: list[Address], context: ssl.SSLContext | None, deadline: _Deadline
    ) -> None:
        super().__init__(target.host, target.port, timeout=deadline.seconds)
        self._target, self._addresses, self._context, self._deadline = target, addresses, context, deadline

    def connect(self) -> None:
        plain = connection_race.connect(self._addresses, self._target.port, self._deadline.left_s())
        self.sock = plain
        self._deadline.watch(plain)
        if self._context is not None:
            secure = self._context.wrap_socket(
                plain, server_hostname=self._target.host.rstrip("."), do_handshake_on_connect=False
            )
            self.sock = secure
            self._deadline.watch(secure)
            secure.do_handshake()


def _why(error: OSError | http.client.HTTPException, deadline: _Deadline) -> str:
    """The cause in words that say nothing of what else is at the address."""
    if deadline.is_over or isinstance(error, TimeoutError):
        return f"did not answer within {deadline.seconds:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "no encrypted connection could be made"
    if isinstance(error, http.client.HTTPException | ConnectionResetError | BrokenPipeError):
        return "ended the connection without a valid answer"
    return "could not be reached"
