"""Examinations: the looks at all parts at the same time, each in a thread of its own, for a limited time.

Owns these threads and the limits: what hangs is a finding. However many ask, each part is looked at once at a time. It
must not know what is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from importlib.metadata import version

from service.adapters import single_flight
from service.adapters.single_flight import SingleFlight
from service.checkup import nodes
from service.checkup.parts import PARTS
from service.context import AppContext, utc_now
from service.contract.checkup import Checkup, Finding, Part, problem

#: For a part of the service to answer: MLflow's own timeout is longer.
PART_S = 5.0
#: For the nodes: the job, and Ray's calls before and after it.
NODES_S = nodes.JOB_S + 30.0


class Examinations:
    """Close them when done."""

    def __init__(self, context: AppContext) -> None:
        self._parts = {part: _flight(part, partial(look, context)) for part, look in PARTS.items()}
        self._nodes = _flight(Part.NODE, partial(nodes.examine, context))

    async def parts(self) -> Checkup:
        """What the service sees, within about PART_S."""
        looks = {part: flight.begin() for part, flight in self._parts.items()}
        await single_flight.wait(looks.values(), PART_S)
        return _checkup([one for part, look in looks.items() for one in _result(part, look, PART_S)])

    async def nodes(self) -> Checkup:
        """What the nodes say, within about NODES_S."""
        look = self._nodes.begin()
        await single_flight.wait([look], NODES_S)
        return _checkup(_result(Part.NODE, look, NODES_S))

    def close(self) -> None:
        for flight in (*self._parts.values(), self._nodes):
            flight.close()


def _flight(part: Part, look: Callable[[], list[Finding]]) -> SingleFlight[list[Finding]]:
    return SingleFlight(f"checkup-{part}", look)


def _result(part: Part, look: Future[list[Finding]], limit_s: float) -> list[Finding]:
    if not look.done():
        remedy = "see whether it hangs; a network file system or a server that was cut off does"
        return [problem(part, f"{part} did not answer within {limit_s:g} s", remedy)]
    return look.result()


def _checkup(findings: list[Finding]) -> Checkup:
    return Checkup(at=utc_now(), version=version("rung"), findings=findings)
