"""NodeRequester: has Ray asked for the nodes that are lacking.

Owns the process on the cluster that asks (`workers.node_requests`): its start, its replacement when it ended, and the
document by which it learns what to ask for. It ends by itself when the document stays the same for long, so a service
that is gone keeps no node. It must not know why nodes are lacking.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable, Sequence

from search_spaces.node_requests import DOCUMENT, FOLDER, REPEAT_S, NodeRequests, SlotRequest
from search_spaces.storage.base import open_storage
from service.adapters.launcher import ALIVE, ClusterUnreachableError, Launcher

MODULE = "workers.node_requests"
#: How often it is looked at whether the process runs, and so how soon another one starts.
LOOK_S = 15.0

log = logging.getLogger(__name__)


class NodeRequester:
    """Call `ask` in each pass with all that is lacking."""

    def __init__(self, launcher: Launcher, root: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._launcher = launcher
        self._address = f"{root}/{FOLDER}"
        self._monotonic = monotonic
        self._keeper = ""
        self._asked: Sequence[SlotRequest] = ()
        self._sequence = 0
        self._written_at = self._looked_at = -math.inf

    def ask(self, requests: Sequence[SlotRequest]) -> None:
        """Errors are logged: the next call tries again."""
        if not requests and not self._asked:
            return
        try:
            self._ask(requests)
        except (ClusterUnreachableError, OSError) as error:
            log.warning("Ray could not be asked for nodes: %s", error)

    def _ask(self, requests: Sequence[SlotRequest]) -> None:
        now, keeper = self._monotonic(), self._keeper
        if requests and now - self._looked_at >= LOOK_S:
            self._looked_at = now
            if not keeper or self._launcher.status(keeper) not in ALIVE:
                keeper = f"{FOLDER}-{secrets.token_hex(8)}"
        if requests == self._asked and keeper == self._keeper and now - self._written_at < REPEAT_S:
            return
        storage = open_storage(self._address)
        storage.create()
        self._sequence += 1
        document = NodeRequests(keeper=keeper, sequence=self._sequence, requests=list(requests))
        storage.artifacts.write(DOCUMENT, document.model_dump_json().encode())
        if keeper != self._keeper:
            self._launcher.run(keeper, MODULE, [self._address, keeper])
            self._keeper = keeper
        if requests != self._asked:
            log.info("slots for which Ray is asked for nodes: %d", sum(one.count for one in requests))
        self._asked, self._written_at = requests, now
