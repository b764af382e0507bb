"""Webhook targets: where notifications may be sent to. Pure: names are resolved by others.

A manager of a team chooses where the service sends requests to, so that without these rules the service would reach
for that person what only it reaches: itself, its neighbors, the metadata of a cloud. What a name stands for is judged
by its addresses at the moment of each try. It must not know HTTP libraries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL_CHARACTERS = 2048
PORTS = {"https": 443, "http": 80}
HOST_NAME = re.compile(
    r"(?=.{1,253}$)[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?(\.[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?)*\.?", re.ASCII
)
#: Services of clouds that answer each machine with its secrets, at addresses that look like any other.
METADATA = frozenset(map(ip_address, ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254")))
#: Forms of IPv6 in which an IPv4 address may be reached, and networks that nobody uses any more: never public.
NOT_PUBLIC = tuple(map(IPv6Network, ("::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "fec0::/10")))
#: How an IPv4 address is reached in a network of IPv6 only (NAT64).
NAT64 = IPv6Network("64:ff9b::/96")
#: Addresses behind a provider's translation, which some networks use as private ones.
SHARED = IPv4Network("100.64.0.0/10")


class TargetRefusedError(ValueError):
    """Nothing may be sent there. The message is a rule, which begins with "must"."""


@dataclass(frozen=True)
class Target:
    """A URL that was split once, so that what was checked is what is used. `path` has the query too."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port, as the header Host has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.authority}"


@dataclass(frozen=True)
class AllowedTargets:
    """Targets that are allowed although their addresses are not public, or although they have no TLS.

    `hosts` are names, with a port if only that one is allowed. A name may stand for private addresses and those of this
    machine, not for link-local ones, at which clouds have their secrets. An address in one of `networks` is allowed
    whatever it is.
    """

    hosts: frozenset[tuple[str, int | None]] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> AllowedTargets:
        """Names, addresses and networks, separated by commas. Raises ValueError, which names the first wrong one."""
        hosts, networks = set[tuple[str, int | None]](), list[Network]()
        for entry in filter(None, map(str.strip, text.lower().split(","))):
            try:
                networks.append(ip_network(entry))
                continue
            except ValueError:
                name, colon, port = entry.partition(":")
            valid = not colon or (port.isdecimal() and 0 < int(port) < 2**16)
            if not valid or not HOST_NAME.fullmatch(name) or "/" in entry:
                raise ValueError(
                    "must be host names (chat.example, chat.example:8080), addresses (10.0.0.7) and networks "
                    f"(10.0.0.0/8), separated by commas (got {entry!r})"
                )
            hosts.add((name.rstrip("."), int(port) if colon else None))
        return cls(frozenset(hosts), tuple(networks))

    def parse_url(self, url: str) -> Target:
        """Raises TargetRefusedError for a URL that nothing may be sent to, as far as it is known without its name's
        addresses."""
        target = _split(url)
        literal = _literal(target.host)
        if literal is not None:
            self.check(target, [literal])
        elif target.scheme != "https" and not self._has_host(target):
            raise TargetRefusedError(_NEEDS_TLS)
        return target

    def check(self, target: Target, addresses: list[Address]) -> None:
        """Raises TargetRefusedError unless all addresses of the target are allowed: one that is not may be a trick."""
        if not addresses:
            raise TargetRefusedError("must have a name with an address")
        listed = all(self._has_network(address) for address in addresses)
        if not listed and self._has_host(target):
            listed = all(_is_near(address) or _is_public(address) for address in addresses)
        if listed:
            return
        if target.scheme != "https":
            raise TargetRefusedError(_NEEDS_TLS)
        if not all(_is_public(address) for address in addresses):
            raise TargetRefusedError(
                "must have public addresses only; an administrator can allow others (RUNG_WEBHOOK_ALLOWED_TARGETS)"
            )

    def _has_host(self, target: Target) -> bool:
        name = target.host.rstrip(".")
        return bool(self.hosts & {(name, None), (name, target.port)})

    def _has_network(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self.networks)


_NEEDS_TLS = "must begin with https://; an administrator can allow http:// for a host (RUNG_WEBHOOK_ALLOWED_TARGETS)"


def _split(url: str) -> Target:
    """Raises TargetRefusedError."""
    if len(url) > MAX_URL_CHARACTERS or not re.fullmatch(r"[!-~]+", url) or "\\" in url:
        raise TargetRefusedError(f"must have 1 to {MAX_URL_CHARACTERS} printable ASCII characters, without spaces")
    try:
        split = urlsplit(url)
        host, port = (split.hostname or "").lower(), split.port
    except ValueError:  # such as a bracket without its other half, or a port that is no number
        raise TargetRefusedError("must be a URL such as https://hooks.example.com/rung") from None
    if split.scheme not in PORTS or port == 0:
        raise TargetRefusedError("must be a URL such as https://hooks.example.com/rung")
    if not (_literal(host) or HOST_NAME.fullmatch(host)) or "%" in host:
        raise TargetRefusedError("must have a host name of ASCII letters, digits, hyphens and dots, or an address")
    if "@" in split.netloc or "#" in url:
        raise TargetRefusedError("must have no user, no password and no part after #")
    path = (split.path or "/") + (f"?{split.query}" if split.query else "")
    return Target(split.scheme, host, PORTS[split.scheme] if port is None else port, path)


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _is_public(address: Address) -> bool:
    meant = _meant(address)
    return (
        meant.is_global
        and not (meant.is_multicast or meant.is_reserved or meant in METADATA)
        and not any(meant in network for network in NOT_PUBLIC if meant.version == network.version)
    )


def _is_near(address: Address) -> bool:
    """Whether it is of this machine or of a private network."""
    meant = _meant(address)
    if meant.is_loopback:
        return True
    is_private = meant.is_private or (meant.version == SHARED.version and meant in SHARED)
    unusual = meant.is_link_local or meant.is_multicast or meant.is_unspecified or meant.is_reserved
    return is_private and not unusual and meant not in METADATA


def _meant(address: Address) -> Address:
    """The address that is reached: IPv6 has forms in which it is one of IPv4."""
    if isinstance(address, IPv6Address) and address in NAT64:
        return IPv4Address(address.packed[-4:])
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
