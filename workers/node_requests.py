"""Node requests: asks Ray for the nodes that are lacking. `python -m workers.node_requests ADDRESS NAME` is a Ray job.

For each slot there is a placement group of one bundle, for which only a new node has room, so Ray's autoscaler adds
one. Groups end with the process that made them, whatever ends it. A group that Ray could place is removed at once: the
room is for trials. It must not know experiments.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Collection
from typing import Any, Protocol

import ray
from pydantic import ValidationError

from search_spaces.node_requests import DOCUMENT, SILENCE_S, NodeRequests, SlotRequest
from search_spaces.storage.base import open_storage, read_document

LOOK_S = 1.0

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    address, name = arguments
    logging.basicConfig(level=logging.INFO)
    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False, logging_level=logging.WARNING)
    keeper = Keeper(name, RayGroups())
    while keeper.look(_read(address)):
        time.sleep(LOOK_S)
    return 0


class Groups(Protocol):
    """Placement groups; the production implementation is `RayGroups`."""

    def create(self, request: SlotRequest) -> Any:
        """A group for one slot, which waits until a node has room."""

    def placed(self) -> Collection[Any]:
        """Groups that have room on a node; others, of anybody, may be among them."""

    def remove(self, group: Any) -> None: ...


class RayGroups:
    """Groups are known by their ids, under which Ray lists them."""

    def __init__(self) -> None:
        self._groups: dict[str, Any] = {}

    def create(self, request: SlotRequest) -> Any:
        from ray.util.placement_group import placement_group

        group = placement_group([request.resources], bundle_label_selector=[request.selector])
        self._groups[group.id.hex()] = group
        return group.id.hex()

    def placed(self) -> Collection[Any]:
        from ray.util.placement_group import placement_group_table

        return {name for name, one in placement_group_table().items() if one["state"] == "CREATED"}

    def remove(self, group: Any) -> None:
        from ray.util.placement_group import remove_placement_group

        remove_placement_group(self._groups.pop(group))


class Keeper:
    """Keeps as many groups as the newest document asks for. `clock` gives monotonic seconds."""

    def __init__(self, name: str, groups: Groups, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._groups = groups
        self._clock = clock
        self._heard_at = clock()
        self._sequence: int | None = None
        self._waiting: list[tuple[SlotRequest, list[Any]]] = []

    def look(self, document: NodeRequests | None) -> bool:
        """Act on the document, None if it could not be read. False once this process is not needed any more."""
        if document is not None and document.keeper != self._name:
            return self._end("another process asks now")
        if document is not None and document.sequence != self._sequence:
            self._sequence, self._heard_at = document.sequence, self._clock()
            self._follow(document.requests)
        placed = self._groups.placed() if any(groups for _, groups in self._waiting) else ()
        for _, groups in self._waiting:
            for group in [one for one in groups if one in placed]:
                self._groups.remove(group)
                groups.remove(group)
        if self._clock() - self._heard_at > SILENCE_S:
            return self._end("nothing was asked for lately")
        return True

    def _follow(self, requests: list[SlotRequest]) -> None:
        """Groups that are asked for again stay, so that Ray does not lose what it has begun."""
        before = self._waiting
        self._waiting = []
        for request in requests:
            kind = request.model_copy(update={"count": 1})
            groups = [group for old, some in before if old == kind for group in some]
            while len(groups) > request.count:
                self._groups.remove(groups.pop())
            groups += [self._groups.create(request) for _ in range(request.count - len(groups))]
            self._waiting.append((kind, groups))
        kept = [kind for kind, _ in self._waiting]
        for kind, groups in before:
            for group in groups if kind not in kept else ():
                self._groups.remove(group)

    def _end(self, why: str) -> bool:
        log.info("%s", why)
        self._follow([])
        return False


def _read(address: str) -> NodeRequests | None:
    try:
        return NodeRequests.model_validate_json(read_document(open_storage(address).artifacts, DOCUMENT))
    except (OSError, ValidationError) as error:
        log.warning("what is asked for cannot be read: %s", error)
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
