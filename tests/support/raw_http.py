"""Connections below HTTP clients: what a client would never send, or never finishes."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

PATIENCE_S = 20.0  # no test waits so long, unless what it waits for never comes


@contextmanager
def connected(url: str, *, source: str = "127.0.0.1", receive_buffer: int | None = None) -> Iterator[socket.socket]:
    """A connection to the service at `url` from a loopback address of this machine."""
    with socket.socket() as raw:
        raw.settimeout(PATIENCE_S)
        raw.bind((source, 0))
        if receive_buffer is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        address = urlsplit(url)
        raw.connect((address.hostname, address.port))
        yield raw


def request(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    """A request as it is sent."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode() + body


def submission(name: str = "x") -> bytes:
    """A request that submits an experiment."""
    body = json.dumps({"name": name}).encode()
    length = f"Content-Length: {len(body)}"
    return request("POST", "/api/v1/experiments", "Content-Type: application/json", length, body=body)


def unfinished_submission() -> bytes:
    """A request whose body ends before its end."""
    return request("POST", "/api/v1/experiments", "Content-Type: application/json", "Content-Length: 100", body=b"{")


def rest(raw: socket.socket) -> bytes:
    """All that the service still sends, until it closes the connection."""
    received = bytearray()
    while part := raw.recv(2**16):
        received += part
    return bytes(received)


def status_of(raw: socket.socket) -> int:
    """The status of the next response, which is read to its end and no further."""
    response = bytearray()
    while not response.endswith(b"\r\n\r\n"):
        response += _receive(raw, 1)
    [length] = re.findall(rb"(?i)\r\ncontent-length: (\d+)", response)
    missing = int(length)
    while missing:
        missing -= len(_receive(raw, missing))
    return int(response.split(b" ", 2)[1])


def _receive(raw: socket.socket, most: int) -> bytes:
    received = raw.recv(most)
    if not received:
        raise ConnectionError("the connection ended before the response")
    return received


def parse(response: bytes) -> tuple[int, dict[str, str], Any]:
    """Status, headers (in lower case) and JSON body of one response."""
    head, _, body = response.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    named = (line.partition(":") for line in lines)
    return int(first.split(" ")[1]), {name.lower(): value.strip() for name, _, value in named}, json.loads(body)
