"""Node requests: the slots for which the cluster lacks nodes, as the service writes them down for the process that asks
Ray.

It is here because the service and the workers use it and neither may import the other.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import PurePath

from pydantic import BaseModel, ConfigDict, Field

#: The folder in the root of the storage, as if it were an experiment, and the file in it.
FOLDER, DOCUMENT = "node-requests", PurePath("requests.json")
#: The service writes the document again after this time, also unchanged, while it requests anything.
REPEAT_S = 30.0
#: After this time without a new document, nothing is requested any more: the service may never come back.
SILENCE_S = 4 * REPEAT_S


class SlotRequest(BaseModel):
    """So many slots, each of these CPUs and GPUs of one node. `selector` is Ray's label selector of the node: none that
    lives already has these labels."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    cpus: float
    gpus: float
    selector: dict[str, str]
    count: int

    @property
    def kind(self) -> Hashable:
        """The same for slots that differ in nothing."""
        return self.cpus, self.gpus, *sorted(self.selector.items())

    @property
    def resources(self) -> dict[str, float]:
        """What a slot takes, as Ray names it."""
        return {name: amount for name, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount}


class NodeRequests(BaseModel):
    """All requests, for the process named `keeper`; another one ends. `sequence` differs from that of the document
    before."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    keeper: str
    sequence: int
    requests: list[SlotRequest] = Field(default_factory=list)
