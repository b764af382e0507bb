"""Parts: computes the parts of an insight, each with a deadline of its own.

Owns what happens to a part that fails or takes too long. It must not know what a part is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class Parts:
    """`limits_s` has the seconds that each part may take, `within_s` those of all parts together.

    `notes` say which parts are missing, and why.
    """

    def __init__(self, limits_s: Mapping[str, float], within_s: float) -> None:
        self._limits_s = limits_s
        self._until = time.monotonic() + within_s
        self.notes: list[str] = []

    def compute(self, name: str, part: Callable[[], T], otherwise: T) -> T:
        """The part, or `otherwise` where it fails or is late.

        A late part continues in its thread, which nobody waits for: the process ends with the insight's plots.
        """
        found: list[T] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                found.append(part())
            except Exception as error:
                errors.append(error)

        limit_s = min(self._limits_s[name], self._until - time.monotonic())
        if limit_s <= 0:
            self.notes.append(f"{name} was not computed: what came before it took all the time")
            return otherwise
        thread = threading.Thread(target=run, name=f"insight-{name}", daemon=True)
        thread.start()
        thread.join(limit_s)
        if found:
            return found[0]
        why = f"it failed: {errors[0]!r}" if errors else f"it took more than {limit_s:.2g} s"
        log.warning("the part %r of the insight is missing: %s", name, why)
        self.notes.append(f"{name} was not computed: {why}")
        return otherwise
