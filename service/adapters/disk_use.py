"""DiskUse: the sizes of an experiment's files, counted at most once a minute.

A count walks through all files of an experiment, on a file system that everybody shares. Owns the last counts and how
many are made at once. It must not know the database, or who asks.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from service.adapters.experiment_files import ExperimentFiles, FileKind
from service.contract.errors import UnavailableError

KEPT_S = 60.0
MAX_KEPT = 1_000  # experiments whose last count is kept
#: Counts at once: a slow file system must not hold all threads that answer people.
MAX_COUNTS = 4
RETRY_S = 2

Sizes = dict[FileKind, int]


class DiskUse:
    """Bytes of every kind of file, by experiment."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[float, Sizes]] = OrderedDict()
        self._counting: set[str] = set()

    def sizes(self, files: ExperimentFiles) -> Sizes:
        """The last count if it is recent or a new one is being made, otherwise a new one.

        Raises UnavailableError where there is none and too many are being made.
        """
        address = files.address
        with self._lock:
            counted_at, sizes = self._known.get(address, (None, {}))
            is_recent = counted_at is not None and self._monotonic() - counted_at < KEPT_S
            is_busy = address in self._counting or len(self._counting) >= MAX_COUNTS
            if is_recent or (is_busy and counted_at is not None):
                return sizes
            if is_busy:
                raise UnavailableError.busy(
                    "files are being counted for other requests; try again in a moment", RETRY_S
                )
            self._counting.add(address)
        try:
            sizes = files.sizes()
        finally:
            with self._lock:
                self._counting.discard(address)
        with self._lock:
            self._known[address] = self._monotonic(), sizes
            self._known.move_to_end(address)
            while len(self._known) > MAX_KEPT:
                self._known.popitem(last=False)
        return sizes
