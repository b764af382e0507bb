"""Addresses: what a host or a URL in a setting stands for. Pure: no name is resolved."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import unquote, urlsplit


def is_every_address(host: str) -> bool:
    """Whether a server on this address listens on all addresses of its machine, in any notation that it accepts."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        try:
            return not any(socket.inet_aton(host))  # such as 0 or 0x0
        except OSError:
            return False


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on this address. Of names, only `localhost` is known to be one."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_host(address: str) -> None:
    """Raises ValueError for an http URL whose host or port cannot be one."""
    try:
        split = urlsplit(address)
        valid = split.hostname is not None and split.port != 0
    except ValueError:  # such as a bracket without its other half, or a port that is no number
        valid = False
    if not valid:
        raise ValueError("must have a host name or address, and a port from 1 to 65535 if any")


def split_credentials(address: str) -> tuple[str, str, str]:
    """An http URL without its credentials, its user and its password; any other address unchanged."""
    scheme, separator, rest = address.partition("://")
    authority, slash, path = rest.partition("/")
    userinfo, at, host = authority.rpartition("@")
    if not at or scheme not in {"http", "https"}:
        return address, "", ""
    user, _, password = userinfo.partition(":")
    return f"{scheme}{separator}{host}{slash}{path}", unquote(user), unquote(password)
