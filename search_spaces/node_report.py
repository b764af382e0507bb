"""Node report: what a node of the cluster says of itself when the service examines the installation.

Owns the question and the answer. It is here because the service and the workers use them and neither may import the
other.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

#: Before the answer in the output of the job that examines the nodes.
MARK = "rung-node-reports:"


class NodeQuestion(BaseModel):
    """What the nodes are to look for. The storage is that of an experiment which exists only for this. An empty
    `data_root` need not exist."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    storage: str
    marker: str
    data_root: str
    cache_root: str
    timeout_s: float


class NodeReport(BaseModel):
    """One node. Times are Unix seconds: of the node, and of the process that asked it before and after.

    `silent`: it did not answer in time. An empty version: the package is not installed. `storage_problem` is read after
    the node's name.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    gpus: float = 0
    silent: bool = False
    problem: str = ""
    at: float = 0
    asked_at: float = 0
    answered_at: float = 0
    versions: dict[str, str] = Field(default_factory=dict)
    storage_problem: str = ""
    write_problem: str = ""
    has_data_root: bool = True
    free_cache_bytes: int | None = None
    usable_gpus: int | None = None


class NodeReports(BaseModel):
    """All living nodes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    nodes: list[NodeReport]
