"""Processes of this machine, as /proc shows them."""

from __future__ import annotations

import contextlib
import os
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

LISTEN = "0A"  # the state of a listening socket in /proc/net/tcp


def pids() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def command(pid: int) -> str:
    """Its command line; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process runs. A zombie does not: it stays in the table until its parent waits for it."""
    return _stat(pid)[0] not in {"Z", "X", ""}


def children(parent: int) -> list[int]:
    return [pid for pid in pids() if _stat(pid)[1] == parent]


def session(leader: int) -> list[int]:
    """All processes of a session. Ray's daemons have their own process groups, but stay in the session."""
    found = []
    for pid in pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) == leader:
                found.append(pid)
    return found


def listening(owners: list[int]) -> set[tuple[IPv4Address | IPv6Address, int]]:
    """Addresses and ports of the TCP sockets on which the processes listen."""
    held = set()
    for pid in owners:
        with contextlib.suppress(OSError):  # it has ended
            held |= {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            local, state, inode = (line.split()[column] for column in (1, 3, 9))
            if state == LISTEN and f"socket:[{inode}]" in held:
                address, _, port = local.partition(":")
                found.add((_address(address), int(port, 16)))
    return found


def _stat(pid: int) -> tuple[str, int]:
    """State and parent of a process; empty and 0 if it has ended."""
    try:
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return state, int(parent)


def _address(words: str) -> IPv4Address | IPv6Address:
    """Parse an address of /proc/net: words of four bytes, each in this machine's byte order."""
    packed = b"".join(int(words[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(words), 8))
    address = ip_address(packed)
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
