"""A cluster that exists in memory: its nodes, and the problem that a check of each finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_spaces.protocol import LaunchConfig


class MemoryCluster:
    """Nodes by name, which is their id too. A check ends at once unless it is one of `slow`."""

    def __init__(self, *names: str, cpus: float = 2.0) -> None:
        self.cpus = dict.fromkeys(names, cpus)
        self.labels: dict[str, dict[str, str]] = {}
        self.problems: dict[str, str] = {}
        self.slow: set[str] = set()
        self.broken: set[str] = set()  # the check of these fails itself
        self.leaving: dict[str, float] = {}  # seconds left, by node
        self.actors: dict[str, str] = {}  # the node of each
        self.begun: list[str] = []

    def nodes(self) -> list[Mapping[str, Any]]:
        return [
            {"NodeID": name, "NodeName": name, "Resources": {"CPU": cpus}, "Labels": self.labels.get(name, {})}
            for name, cpus in self.cpus.items()
        ]

    def draining(self) -> Mapping[str, float]:
        return dict(self.leaving)

    def node_of(self, actor: Any) -> str:
        return self.actors.get(actor, "")

    def begin_check(self, node: str, launch: LaunchConfig) -> Any:
        self.begun.append(node)
        return node

    def checked(self, begun: list[Any], timeout_s: float) -> dict[Any, str | None]:
        return {
            node: None if node in self.broken else self.problems.get(node, "")
            for node in begun
            if node not in self.slow
        }
