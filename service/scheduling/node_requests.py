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
from service.adapters.launcher import ALIVE, ClusterUnreachableError, JobStatus, Launcher

MODULE = "workers.node_requests"
#: How often it is looked at whether the process runs, and so how soon another one starts; later each time it failed.
LOOK_S, LONGEST_S = 15.0, 600.0
LOG_CHARACTERS = 2000  # of the end of what a process printed that failed

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
        self._written_at = self._next_look = -math.inf
        self._pause_s = LOOK_S
        self._has_failed = False
        self.can_ask = True  # as far as the newest call tells

    def ask(self, requests: Sequence[SlotRequest]) -> None:
        """Errors are logged: the next call tries again."""
        if not requests and not self._asked:
            return
        try:
            self._ask(requests)
            self.can_ask = not self._has_failed
        except (ClusterUnreachableError, OSError) as error:
            self.can_ask = False
            log.warning("Ray could not be asked for nodes: %s", error)

    def _ask(self, requests: Sequence[SlotRequest]) -> None:
        now, keeper = self._monotonic(), self._keeper
        if requests and now >= self._next_look:
            self._next_look = now + LOOK_S
            if not self._runs():
                self._next_look, keeper = now + self._pause_s, f"{FOLDER}-{secrets.token_hex(8)}"
        if not keeper:
            return  # none could be started at the newest look
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

    def _runs(self) -> bool:
        """Whether the process that asks runs. One that ended because nothing was asked for has not failed."""
        status = self._launcher.status(self._keeper) if self._keeper else JobStatus.SUCCEEDED
        self._has_failed = status not in ALIVE | {JobStatus.SUCCEEDED}
        self._pause_s = min(2 * self._pause_s, LONGEST_S) if self._has_failed else LOOK_S
        if self._has_failed:
            printed = self._launcher.logs(self._keeper)[-LOG_CHARACTERS:]
            log.warning("%s, which asks Ray for nodes, ended as %s; it printed: %s", self._keeper, status, printed)
        return status in ALIVE
