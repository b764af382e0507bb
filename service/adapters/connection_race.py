"""Connection race: a connection to the first of several addresses that accepts one.

An address that swallows packets must not use up the time of those after it: each is tried a moment after the one before
it, at once if that one refused, and all that were begun stay in the race (RFC 8305). It must not know what is sent.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Iterable

from service.webhook_targets import Address

#: RFC 8305 recommends a quarter of a second; nobody waits here, and most first addresses answer in a second.
STAGGER_S = 1.0
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def connect(addresses: Iterable[Address], port: int, timeout_s: float) -> socket.socket:
    """The connection, with this timeout for each read. Raises TimeoutError if none was made in `timeout_s`, and the
    OSError of the address that refused last if all did."""
    untried, refused, end_at = list(addresses), OSError("no address"), time.monotonic() + timeout_s
    with selectors.DefaultSelector() as pending:
        try:
            while untried or pending.get_map():
                if untried:
                    try:
                        pending.register(_begin(untried.pop(0), port), selectors.EVENT_WRITE)
                    except OSError as error:
                        refused = error
                        continue
                if (left_s := end_at - time.monotonic()) <= 0:
                    raise TimeoutError
                for key, _ in pending.select(min(STAGGER_S, left_s) if untried else left_s):
                    pending.unregister(one := _socket(key))
                    if not (code := one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                        one.settimeout(timeout_s)
                        return one
                    one.close()
                    refused = OSError(code, os.strerror(code))
            raise refused
        finally:
            for key in pending.get_map().values():
                _socket(key).close()


def _begin(address: Address, port: int) -> socket.socket:
    one = socket.socket(FAMILIES[address.version])
    one.setblocking(False)
    if (code := one.connect_ex((str(address), port))) not in {0, errno.EINPROGRESS}:
        one.close()
        raise OSError(code, os.strerror(code))
    return one


def _socket(key: selectors.SelectorKey) -> socket.socket:
    assert isinstance(key.fileobj, socket.socket)
    return key.fileobj
