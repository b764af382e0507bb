"""Fence: whether a later attempt has taken over the experiment.

Owns one flag that all parts of a driver share. It must not know who sets it or what they stop doing.
"""

from __future__ import annotations

import threading


class Fence:
    """Closed once, by the part that learns of the later attempt first, and never opened again.

    Once closed, this attempt must write nothing more: neither files of the experiment, nor to MLflow, nor to the
    service. All methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._closed = threading.Event()

    def close(self) -> None:
        self._closed.set()

    def is_closed(self) -> bool:
        return self._closed.is_set()
