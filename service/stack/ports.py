"""Ports: free ports of this machine, held until all are chosen. It must not know what they are for."""

from __future__ import annotations

import socket

from service.stack.home import StackOptionError

LOOPBACK = "127.0.0.1"
MAX_PORT = 65535


class Ports:
    """Ports that are free now. They are held until `close`, so that none is given twice."""

    def __init__(self) -> None:
        self._held: list[tuple[str, socket.socket]] = []

    def free(self) -> int:
        return self._bind("", 0, LOOPBACK)

    def take(self, option: str, given: int | None, host: str) -> int:
        """The given port of the host, or a free one. Raises StackOptionError if it cannot be used."""
        if given is not None and not 0 <= given <= MAX_PORT:
            self.close()
            raise StackOptionError(f"--{option} must be between 0 and {MAX_PORT} (got {given})")
        return self._bind(option, given or 0, host)

    def close(self) -> None:
        for _, held in self._held:
            held.close()

    def _bind(self, option: str, port: int, host: str) -> int:
        held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._held.append((option, held))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((host, port))
            held.listen()  # without it, the same port could be bound again
        except OSError as error:
            others = [f"--{name} is the same" for name, one in self._held[:-1] if one.getsockname()[1] == port]
            self.close()
            wanted = f"--{option} {port}" if port else "a free port"
            raise StackOptionError(f"{wanted} of {host} cannot be used: {(*others, error.strerror)[0]}") from error
        return int(held.getsockname()[1])


def in_url(host: str) -> str:
    """A host as it is written in a URL: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host
