"""Probe: whether something that the service needs can be used, known within half a second.

Owns how long a slow MLflow or a storage that hangs is waited for, and what is logged of it. It must not know what is
probed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future

from sqlalchemy.exc import SQLAlchemyError

from service.adapters.single_flight import SingleFlight
from service.contract.errors import UnavailableError

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 0.5  # readiness probes, which call this, often wait only one second for their own answer


class Probe:
    """Checks on demand, one check at a time. Close it when done.

    `name` is of what is checked, for messages. `check` returns if it can be used; otherwise it raises UnavailableError,
    OSError or SQLAlchemyError.
    """

    def __init__(self, name: str, check: Callable[[], None]) -> None:
        self._name = name
        self._check = check
        self._asking = SingleFlight("probe", self._ask)
        self._logged = ""

    def close(self) -> None:
        self._asking.close()

    def begin(self) -> Future[str]:
        """Ask, without waiting: why it cannot be used; empty when it can."""
        return self._asking.begin()

    def unavailable_reason(self) -> str:
        """Why it cannot be used; empty when it can. Returns within PROBE_TIMEOUT_S."""
        try:
            return self.begin().result(PROBE_TIMEOUT_S)
        except TimeoutError:
            return f"{self._name} did not answer within {PROBE_TIMEOUT_S:g} s"

    def _ask(self) -> str:
        reason = ""
        try:
            self._check()
        except UnavailableError as error:
            reason = error.detail
        except (OSError, SQLAlchemyError) as error:
            reason = str(error)
        if reason and reason != self._logged:
            log.warning("%s", reason)
        self._logged = reason
        return reason
