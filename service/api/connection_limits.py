"""Connection limits: how many connections there may be, of one address and in all, and which makes room for a new one.

Owns which connections are open, by address and by age. The work of each step does not depend on their number, because
a client that opens and closes thousands a second must not keep the event loop busy. It must not know what they send.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


class Connection(Protocol):
    """What is asked of a connection, which also says when it begins and ends to wait for its client."""

    @property
    def address(self) -> str: ...

    @property
    def is_driver(self) -> bool: ...

    def drop(self) -> None: ...


@dataclass
class _Address:
    """The connections of one address, without those of drivers. The one that waits longest is in front."""

    count: int = 0
    waiting: dict[Connection, None] = field(default_factory=dict)


class ConnectionLimits:
    """The open connections. A dropped one counts no more, although its end is noticed only in a later turn."""

    def __init__(self, most: int, most_of_address: int) -> None:
        self._most = most
        self._most_of_address = most_of_address
        self._open: set[Connection] = set()
        self._addresses: dict[str, _Address] = {}
        #: The addresses with one waiting connection, with two, and so on. The last set is never empty: a count changes
        #: by one at a time.
        self._by_waiting: list[dict[str, None]] = []

    def admit(self, new: Connection) -> bool:
        """Whether a new connection may stay. If there are too many, the one that has waited longest for its client is
        closed instead: of the same address first, otherwise of the address of which most wait."""
        address = self._addresses.setdefault(new.address, _Address())
        self._open.add(new)
        address.count += 1
        self.begin_wait(new)
        if address.count <= self._most_of_address:
            if len(self._open) <= self._most:
                return True
            address = self._addresses[next(iter(self._by_waiting[-1]))]
        oldest = next(iter(address.waiting))
        self.forget(oldest)
        if oldest is new:
            return False
        oldest.drop()
        return True

    def begin_wait(self, one: Connection) -> None:
        """From now on, the service has nothing to do for it until its client sends more."""
        if one in self._open and not one.is_driver:
            self.end_wait(one)
            waiting = self._addresses[one.address].waiting
            waiting[one] = None
            self._recount(one.address, len(waiting) - 1, len(waiting))

    def end_wait(self, one: Connection) -> None:
        """The service has something to do for it."""
        if one in self._open and not one.is_driver:
            waiting = self._addresses[one.address].waiting
            if one in waiting:
                del waiting[one]
                self._recount(one.address, len(waiting) + 1, len(waiting))

    def exempt(self, one: Connection) -> None:
        """It is about to be known as a driver's: it makes room for nobody, and does not count for its address."""
        if one in self._open and not one.is_driver:
            self.end_wait(one)
            address = self._addresses[one.address]
            address.count -= 1
            if not address.count:
                del self._addresses[one.address]

    def forget(self, closed: Connection) -> None:
        self.exempt(closed)
        self._open.discard(closed)

    def _recount(self, address: str, before: int, after: int) -> None:
        if before:
            del self._by_waiting[before - 1][address]
        if after > len(self._by_waiting):
            self._by_waiting.append({})
        if after:
            self._by_waiting[after - 1][address] = None
        if not self._by_waiting[-1]:
            self._by_waiting.pop()
