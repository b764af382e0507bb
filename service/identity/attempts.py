"""Attempts: how often somebody may try to sign in.

Owns the limits, by address and by login, and counts in memory: each replica counts its own. It must not know whether
an attempt succeeds, except where that is reported.
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from service.contract.errors import TooManyRequestsError

#: Bits of an IPv6 address that a provider gives to one customer, who may use all addresses below.
IPV6_NETWORK_BITS = 64
#: Keys that are remembered for each limit, about 10 MB; the one that was used longest ago is forgotten. An attacker
#: chooses the logins, but needs an address for each 30 of them.
MAX_KEYS = 20_000


class TooManyAttemptsError(TooManyRequestsError):
    """Too many attempts from an address or for a login. `headers` has Retry-After."""


@dataclass(frozen=True)
class Limit:
    """So many attempts in a window of time, which moves with the clock."""

    attempts: int
    window_s: float


@dataclass(frozen=True)
class AttemptLimits:
    """`address` is for one address, whatever it tries. `login` is for one address and one login, before it succeeds:
    ten typing errors are common, and a hundred guesses an hour find no password of 15 characters. `all_addresses` is
    for one login from all addresses together: it is high, because anybody can use it up for its owner."""

    address: Limit = Limit(30, 60)
    login: Limit = Limit(10, 300)
    all_addresses: Limit = Limit(200, 3600)


class SignInAttempts:
    """The attempts of the recent past. Call `begin` before a password or an ID token is looked at."""

    def __init__(self, limits: AttemptLimits | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        limits = limits or AttemptLimits()
        self._address = _Window(limits.address, clock)
        self._login = _Window(limits.login, clock)
        self._all_addresses = _Window(limits.all_addresses, clock)

    def begin(self, address: str, login: str = "") -> None:
        """Count an attempt. Raises TooManyAttemptsError if it is one too many; then nothing must be looked at.

        The order matters: an address that is refused does not use up what others may try for a login.
        """
        network, login = network_of(address), login.casefold()
        self._address.hit((network,))
        if login:
            self._login.hit((network, login))
            self._all_addresses.hit((login,))

    def succeeded(self, address: str, login: str) -> None:
        """An attempt succeeded: those before it, from this address, were typing errors."""
        self._login.forget((network_of(address), login.casefold()))


class _Window:
    """The times of the newest attempts of each key, at most as many as its limit allows."""

    def __init__(self, limit: Limit, clock: Callable[[], float]) -> None:
        self._limit, self._clock = limit, clock
        self._times: OrderedDict[tuple[str, ...], deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def hit(self, key: tuple[str, ...]) -> None:
        with self._lock:
            now = self._clock()
            times = self._times.setdefault(key, deque(maxlen=self._limit.attempts))
            self._times.move_to_end(key)
            if len(self._times) > MAX_KEYS:
                self._times.popitem(last=False)
            wait_s = times[0] + self._limit.window_s - now if len(times) == self._limit.attempts else 0
            if wait_s <= 0:
                times.append(now)
                return
        after = str(math.ceil(wait_s))
        raise TooManyAttemptsError(
            f"too many attempts to sign in; try again in {after} s", headers={"Retry-After": after}
        )

    def forget(self, key: tuple[str, ...]) -> None:
        with self._lock:
            self._times.pop(key, None)


def network_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or the network of an IPv6 address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, IPV6_NETWORK_BITS), strict=False))
