"""Ports: those of this machine that are free now, held until all are chosen. It must not know what they are for."""

from __future__ import annotations

import socket

from service.stack.home import StackError

LOOPBACK = "127.0.0.1"


class Ports:
    """Ports that are free now; held open until `close`, so that no two answers are the same."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def free(self) -> int:
        return self._bind("", 0, LOOPBACK)

    def take(self, option: str, given: int | None, host: str) -> int:
        """The given port of the host, or a free one. Raises StackError where it cannot be had."""
        return self._bind(option, given or 0, host)

    def close(self) -> None:
        for held in self._held:
            held.close()

    def _bind(self, option: str, port: int, host: str) -> int:
        held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._held.append(held)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((host, port))
        except (OSError, OverflowError) as error:
            self.close()
            asked = f"--{option} {port}" if port else "a free port"
            why = error.strerror if isinstance(error, OSError) else "0 <= port <= 65535 required"
            raise StackError(f"{asked} of {host} cannot be used: {why}") from error
        return int(held.getsockname()[1])


def in_url(host: str) -> str:
    """A host as it stands in an address: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host
