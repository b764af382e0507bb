"""The limits that docs/security.md states are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from search_spaces.domains import MAX_ALTERNATIVES, MAX_CANDIDATES
from search_spaces.parsing import MAX_BYTES, MAX_DEPTH
from search_spaces.protocol import MAX_TEXT, MAX_UPDATES
from service.adapters.disk_use import KEPT_S, MAX_COUNTS
from service.adapters.experiment_files import MAX_CHUNK_BYTES
from service.api.connections import MAX_HEADER_BYTES
from service.api.dependencies import MAX_PARAMETERS
from service.api.load_limit import MAX_HEARTBEATS, SHARE_OF_AN_ADDRESS
from service.api.pagination import Paging
from service.api.thread_pools import HEARTBEAT_THREADS, PEOPLE_THREADS, PEOPLE_WRITERS
from service.scheduling import queue
from service.settings import Settings, variable

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
SHARES = {0.5: "half of it"}


def rows() -> dict[str, list[str]]:
    """The cells of each row of the table of limits, by its first."""
    text = PAGE.read_text().partition("## Limits")[2].partition("## ")[0]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {first: others for first, *others in table[2:]}


def size(count: int) -> str:
    return f"{count // 2**20} MiB" if count >= 2**20 else f"{count // 2**10} KiB"


def most_items() -> int:
    return int(next(rule.le for rule in Paging.model_fields["limit"].metadata if hasattr(rule, "le")))


def test_the_limits_are_those_of_the_code(tmp_path: Path) -> None:
    defaults = Settings(home=tmp_path)
    assert KEPT_S == 60
    assert {what: limit for what, (limit, *_) in rows().items()} == {
        "headers of a request, and its trailers": f"{size(MAX_HEADER_BYTES)}, however they arrive",
        "query parameters of a request": str(MAX_PARAMETERS),
        "body of a request": f"{size(defaults.max_body_bytes)}; a spec {size(MAX_BYTES)}",
        "nesting of a spec": f"{MAX_DEPTH} levels",
        "values of a stepped domain; alternatives of a choice": f"{MAX_CANDIDATES:,}; {MAX_ALTERNATIVES:,}",
        "heartbeat": f"{size(defaults.max_heartbeat_bytes)}, read after its token is checked",
        "trials in a heartbeat; characters of a text": f"{MAX_UPDATES}; {MAX_TEXT:,}",
        "time for headers, for a body, for reading on": f"{defaults.request_timeout_s:g} s each",
        "open connections": str(defaults.max_connections),
        "open connections of an address, without drivers": str(defaults.max_connections_per_address),
        "requests of people at once; of one address": f"{defaults.max_requests}; {SHARES[SHARE_OF_AN_ADDRESS]}",
        "heartbeats at once": str(MAX_HEARTBEATS),
        "threads for people; of these, for requests that may write; for heartbeats": (
            f"{PEOPLE_THREADS}; {PEOPLE_WRITERS}; {HEARTBEAT_THREADS}"
        ),
        "experiments that run, each with a driver on the head node": str(defaults.max_drivers),
        "candidates in a pass of the scheduler": f"{queue.MAX_OF_ONE_SIZE} of a size, {queue.MAX_CANDIDATES} in all",
        "shares in `GET /cluster`, items of a list": f"{most_items():,}",
        "part of a log": size(MAX_CHUNK_BYTES),
        "counts of an experiment's files": f"one a minute, {MAX_COUNTS} at once",
    }


def test_the_settings_of_the_limits_exist() -> None:
    named = {name for *_, cell in rows().values() for name in re.findall(r"`(RUNG_\w+)`", cell)}
    limits = {
        variable(name) for name in Settings.model_fields if name.startswith("max_") or name == "request_timeout_s"
    }
    assert named == limits - {variable("max_attempts")}
