"""Connections: how long one may wait for its client, and when it waits.

Owns the part of Uvicorn's HTTP protocol that Uvicorn has no settings for: the deadline of a request's headers, and the
limits of connections (`connection_limits`). A connection that an attempt's driver uses never makes room for another. It
must not know the application.
"""

from __future__ import annotations

import asyncio
import json
import math
from functools import partial
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.api import headers
from service.api.connection_limits import ConnectionLimits
from service.api.security_headers import HEADERS
from service.contract.errors import MEDIA_TYPE, BadRequestError, RungError, UnavailableError
from service.settings import Settings

#: Largest size of a request's headers, and most bytes that are taken from a connection before others have their turn.
MAX_HEADER_BYTES = READ_BYTES = 2**14
#: Connections that wait to be accepted: all of them are in one turn of the event loop, in which nobody is answered.
#: Clients of further ones try again by themselves. Uvicorn's own number is 2,048.
BACKLOG = 128
RETRY_AFTER_S = 1
#: Of a body, as a request's headers name them.
BOTH_LENGTHS = {b"content-length", b"transfer-encoding"}
#: In the state of a request (`request.state`): it is of a driver whose token was checked.
IS_DRIVER = "is_driver"


def server_config(app: Any, settings: Settings, **options: Any) -> uvicorn.Config:
    """Uvicorn's configuration for the application. `options` replace any of it."""
    limits = ConnectionLimits(settings.max_connections, settings.max_connections_per_address)
    protocol = partial(LimitedProtocol, limits, settings.request_timeout_s)
    return uvicorn.Config(
        app,
        **{
            "host": settings.host,
            "port": settings.port,
            "backlog": BACKLOG,
            "http": cast("type[asyncio.Protocol]", protocol),
            "ws": "none",
            "proxy_headers": False,  # anybody could write an address of their choice into them
            "server_header": False,
            # Longer than clients keep an idle connection: it must not end while the next request is on its way.
            "timeout_keep_alive": math.ceil(settings.request_timeout_s),
            "timeout_graceful_shutdown": int(settings.request_timeout_s) + 1,
            "access_log": False,
            "workers": 1,  # otherwise uvicorn reads WEB_CONCURRENCY
            "log_config": None,
            **options,
        },
    )


class StrictParser(h11.Connection):
    """h11's parser, except for two rules.

    The limit holds for headers and trailers that are complete, too: h11 looks only at what is incomplete, so that a
    large block passed if it arrived at once, or behind another request. And a request with two lengths is refused,
    because a proxy may see its end elsewhere (RFC 9112, 6.3).
    """

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        before = len(self.trailing_data[0])
        event = super().next_event()
        is_block = isinstance(event, h11.Request | h11.EndOfMessage)
        if is_block and before - len(self.trailing_data[0]) > MAX_HEADER_BYTES:
            raise h11.RemoteProtocolError("headers too large")
        if isinstance(event, h11.Request) and {name for name, _ in event.headers} >= BOTH_LENGTHS:
            raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
        return event


class LimitedProtocol(H11Protocol):
    """A connection that ends if its client neither completes a request's headers nor reads a response in time."""

    def __init__(self, limits: ConnectionLimits, timeout_s: float, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = StrictParser(h11.SERVER, MAX_HEADER_BYTES)
        self._limits = limits
        self._timeout_s = timeout_s
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self.address = ""
        self.is_driver = False

    @property
    def is_waiting(self) -> bool:
        """Whether the service has nothing to do for it until its client sends more."""
        return not self._has_request or self.cycle.more_body

    @property
    def _has_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self.address = self.client[0] if self.client else ""
        if hasattr(transport, "max_size"):  # of asyncio's own transports
            transport.max_size = READ_BYTES
        if self._limits.admit(self):
            self._wait()
        else:
            sent = {headers.RETRY_AFTER: str(RETRY_AFTER_S)}
            self._refuse(UnavailableError("too many connections are open; try again in a moment", headers=sent))

    def connection_lost(self, exc: Exception | None) -> None:
        self._limits.forget(self)
        for timer in (self._deadline, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._end_wait()

    def on_response_complete(self) -> None:
        if self.scope["state"].get(IS_DRIVER):
            self._limits.exempt(self)
            self.is_driver = True
        self._wait()
        super().on_response_complete()
        self._end_wait()  # the next request may have been sent already

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self._timeout_s, self.drop)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def send_400_response(self, msg: str) -> None:
        self._refuse(BadRequestError("the request is not valid HTTP/1.1, or its headers are too large"))

    def drop(self) -> None:
        """End the connection now, with whatever was not sent yet."""
        self._limits.forget(self)
        self.transport.abort()

    def _should_upgrade(self) -> bool:
        """Every request is answered as HTTP. Uvicorn writes two warnings into the log for each that asks for more."""
        return False

    def _wait(self) -> None:
        """From now on, the client has `timeout_s` to complete the headers of its next request."""
        self._limits.begin_wait(self)
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(self._timeout_s, self.drop)

    def _end_wait(self) -> None:
        """If the headers of a request are complete, its body has a deadline of its own, and a response has none."""
        if not self.is_waiting:
            self._limits.end_wait(self)
        if self._has_request and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, error: RungError) -> None:
        body = json.dumps(error.document()).encode()
        lines = [
            f"HTTP/1.1 {error.status} {error.title}",
            f"content-type: {MEDIA_TYPE}",
            f"content-length: {len(body)}",
            "connection: close",
            *(f"{name.lower()}: {value}" for name, value in {**HEADERS, **error.headers}.items()),
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()
