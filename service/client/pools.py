"""Pools client: the routes about pools and grants, each as a method. Owns their addresses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_spaces.pool_names import DEFAULT_POOL
from search_spaces.protocol import API_PREFIX
from service.client.encoding import JSON, encode_json, path_part
from service.client.transport import HttpTransport
from service.contract.pools import GrantList, GrantView, PoolList, PoolView


class PoolsClient:
    """`client.pools`. Every method raises a RungError, as those of the client do."""

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport

    def all(self) -> list[PoolView]:
        """What is shared: the default pool, and the others by name."""
        return self._transport.get(PoolList, f"{API_PREFIX}/pools").items

    def create(self, pool: str, labels: Mapping[str, str]) -> PoolView:
        """Make a pool of the nodes with these labels in Ray. For administrators. Raises SpecError, ConflictError."""
        body = encode_json({"pool": pool, "labels": dict(labels)}, "labels")
        answer = self._transport.send("POST", f"{API_PREFIX}/pools", None, body, JSON)
        return self._transport.parse_response(PoolView, answer)

    def delete(self, pool: str) -> None:
        """Delete a pool and its grants. For administrators. Raises NotFoundError, and ConflictError while an experiment
        that has not ended is in it."""
        self._transport.send("DELETE", _pool(pool))

    def get(self, pool: str = DEFAULT_POOL) -> PoolView:
        """How a pool is shared. Raises NotFoundError."""
        return self._transport.get(PoolView, _pool(pool))

    def change(self, changes: Mapping[str, Any], *, pool: str = DEFAULT_POOL) -> PoolView:
        """Change `labels`, `stop`, `min_run_s`, `preempt_grace_s` or `min_drivers`; None is the default. For
        administrators."""
        answer = self._transport.send("PATCH", _pool(pool), None, encode_json(changes, "changes"), JSON)
        return self._transport.parse_response(PoolView, answer)

    def grants(self, *, pool: str = DEFAULT_POOL) -> list[GrantView]:
        """What the teams of the caller may use, and what they use; for administrators, all teams."""
        return self._transport.get(GrantList, f"{_pool(pool)}/grants").items

    def change_grant(self, team: str, changes: Mapping[str, Any], *, pool: str = DEFAULT_POOL) -> GrantView:
        """Change `weight`, `quota`, `limit`, `max_running`, `max_queued` or `max_priority` of a team; None is the
        default. For administrators."""
        answer = self._transport.send("PATCH", _grant(pool, team), None, encode_json(changes, "changes"), JSON)
        return self._transport.parse_response(GrantView, answer)

    def remove_grant(self, team: str, *, pool: str = DEFAULT_POOL) -> None:
        """Give a team the defaults again, or in another pool than the default one no right. For administrators."""
        self._transport.send("DELETE", _grant(pool, team))


def _pool(pool: str) -> str:
    return f"{API_PREFIX}/pools/{path_part(pool, 'pool')}"


def _grant(pool: str, team: str) -> str:
    return f"{_pool(pool)}/grants/{path_part(team, 'team')}"
