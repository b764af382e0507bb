"""Queue: the bodies of responses about experiments that wait for slots."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, Field

from service.contract.schemas import NEXT_CURSOR


class WaitsFor(StrEnum):
    """What an experiment waits for."""

    TEAM = "team"  # slots of its team, which others of the team have
    SHARE = "share"  # slots that other teams have
    LIMIT = "limit"  # its team uses as much as it may
    BUDGET = "budget"  # the budget of its team for this month is spent
    MAX_RUNNING = "max_running"  # as many experiments of its team run as may
    DRIVERS = "drivers"  # as many experiments run as may
    HOLD = "hold"  # an administrator has stopped the queue
    NODE = "node"  # no living node is large enough
    DRAINING = "draining"  # trials on a node are ending for it
    MOVING = "moving"  # its trials leave a node that another one needs
    RAY = "ray"  # Ray does not answer
    RETRY = "retry"  # its driver was lost, and the next one starts after a pause
    UNKNOWN = "unknown"  # nobody has looked at it yet


class Estimate(BaseModel):
    """When an experiment will probably start."""

    seconds: float | None = Field(description="Seconds until it starts; null where nothing is known.")
    basis: str = Field(
        description="What the estimate rests on, or why there is no estimate.",
        examples=["24 experiments of the team started in the last 24 hours"],
    )


class QueueEntry(BaseModel):
    """An experiment that waits."""

    position: int = Field(
        description="Its place among the experiments of its team that wait for the same pool, from 1: by priority, "
        "then by age."
    )
    experiment_id: str = Field(description="Identifier of the experiment.")
    name: str = Field(description="Name of the experiment.")
    team: str = Field(description="Short name of the team that it belongs to.")
    owner: str | None = Field(description="Login of who submitted it; null for programs and without accounts.")
    pool: str = Field("default", description="Pool for which it waits.")
    priority: int = Field(description="Its priority.")
    created_at: datetime = Field(description="When the spec was accepted.")
    cpus_per_trial: float | None = Field(description="CPUs of each trial; null for a spec that cannot be read.")
    gpus_per_trial: float | None = Field(description="GPUs of each trial; null: one if the cluster has any.")
    gpu_type: list[str] = Field(default_factory=list, description="GPU types that its trials may use; empty: any.")
    waits_for: WaitsFor = Field(description="What it waits for.")
    reason: str = Field(description="The same as a sentence.")
    estimate: Estimate = Field(description="When it will probably start.")


class Queue(BaseModel):
    """One page of the experiments that wait, the first of each team in each pool before the second of any."""

    waiting: int = Field(description="Number of experiments that wait, of the teams whose experiments you may see.")
    waiting_of_others: int = Field(description="Number of experiments of all other teams that wait.")
    items: list[QueueEntry] = Field(description="The experiments in the order of the queue.")
    next_cursor: str | None = Field(description=NEXT_CURSOR)
