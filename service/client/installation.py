"""Installation methods: the routes about the service itself, its cluster, its queue and its presets.

Owns what is sent to them.
"""

from __future__ import annotations

from typing import Any

from search_spaces.protocol import API_PREFIX
from service.client.addresses import preset_path
from service.client.transport import HttpTransport
from service.contract.checkup import Checkup
from service.contract.queue import Queue
from service.contract.schemas import ClusterStatus, Health, Preset, PresetName, Readiness

#: For the service to examine its parts, which takes it six seconds at most.
CHECKUP_S = 15.0
#: In seconds: for so long the service waits for the nodes.
NODES_S = 180.0


class InstallationMethods:
    """One request each, or one for each page."""

    _transport: HttpTransport

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of a spec."""
        return self._transport.decode_object(self._transport.send("GET", f"{API_PREFIX}/schema"))

    def presets(self) -> tuple[PresetName, ...]:
        """The ready-made specs."""
        items = self._transport.decode_json(self._transport.send("GET", f"{API_PREFIX}/presets"))
        return tuple(self._transport.parse_as(PresetName, item) for item in items)

    def preset(self, name: str) -> Preset:
        """A preset as YAML with its comments, and with every default written out. Raises NotFoundError."""
        return self._transport.get(Preset, preset_path(name))

    def cluster(self) -> ClusterStatus:
        """The nodes of the cluster, and how many slots each experiment has."""
        path = f"{API_PREFIX}/cluster"
        page = self._transport.get(ClusterStatus, path)
        shares, cursor = page.shares, page.next_cursor
        while cursor is not None:
            further = self._transport.get(ClusterStatus, path, {"cursor": cursor})
            shares, cursor = [*shares, *further.shares], further.next_cursor
        return page.model_copy(update={"shares": shares, "next_cursor": None})

    def queue(self, limit: int = 50) -> Queue:
        """The first `limit` experiments that wait, what each waits for, and when it will probably start."""
        path = f"{API_PREFIX}/queue"
        page = self._transport.get(Queue, path, {"limit": min(limit, 1000)})
        items, cursor = page.items, page.next_cursor
        while cursor is not None and len(items) < limit:
            further = self._transport.get(Queue, path, {"cursor": cursor, "limit": min(limit - len(items), 1000)})
            items, cursor = [*items, *further.items], further.next_cursor
        return page.model_copy(update={"items": items, "next_cursor": cursor})

    def health(self) -> Readiness:
        """Whether the database, Ray and MLflow answer. Returns also where the service is not ready."""
        return self._transport.parse_response(Readiness, self._transport.send("GET", "/readyz", accept=503))

    def checkup(self) -> Checkup:
        """What the service sees of each part of the installation, and what to do."""
        return self._transport.get(Checkup, f"{API_PREFIX}/checkup", timeout_s=CHECKUP_S)

    def checkup_nodes(self) -> Checkup:
        """What each node of the cluster has and sees. Runs a short job on the cluster, for three minutes at most."""
        answer = self._transport.send("POST", f"{API_PREFIX}/checkup/nodes", takes_s=NODES_S)
        return self._transport.parse_response(Checkup, answer)

    def ping(self) -> None:
        """Raise UnreachableError if the service does not answer, or if it is not a Rung service."""
        self._transport.get(Health, "/healthz")
