"""Pools: the bodies of responses about what is shared, and what each team may use of it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from search_spaces.pool_names import DEFAULT_POOL

#: Whether a pool starts experiments.
Stop = Literal["none", "hold", "drain"]


class PoolView(BaseModel):
    """Nodes that teams share, and how."""

    pool: str = Field(description="Name of the pool.", examples=[DEFAULT_POOL])
    labels: dict[str, str] = Field(
        description="Labels that its nodes have in Ray; none for the pool of the nodes that no other pool has.",
        examples=[{"accelerator": "h100"}],
    )
    nodes: int | None = Field(description="Number of its living nodes; null while the cluster is not known.")
    stop: Stop = Field(
        description="With `hold` nothing new starts, with `drain` running experiments also yield all slots."
    )
    min_run_s: float = Field(description="Seconds for which an experiment that has started keeps its first slot.")
    preempt_grace_s: float = Field(
        description="Seconds that trials may take to end their epoch after their slot was lost."
    )
    min_drivers: int = Field(
        0, description="Of the drivers that may run at once (RUNG_MAX_DRIVERS), number that is kept for the pool."
    )
    unit: Literal["GPUs", "CPUs"] | None = Field(
        description="Unit of quotas and limits; null while the service has not seen the cluster."
    )
    capacity: float | None = Field(description="What the nodes have in this unit; null while it is not known.")
    quotas: float | None = Field(
        description="Sum of the quotas of all teams; null for everybody except administrators."
    )
    hints: list[str] = Field(description="What an administrator should know, a sentence each.")


class PoolList(BaseModel):
    """Pools, the default one before the others by name."""

    items: list[PoolView] = Field(description="The pools.")


class GrantView(BaseModel):
    """What a team may use of a pool, and what it uses now."""

    pool: str = Field(description="Name of the pool.", examples=[DEFAULT_POOL])
    team: str = Field(description="Short name of the team.", examples=["vision"])
    weight: float = Field(description="What is lent is shared by the weights of the teams that want it.", examples=[3])
    quota: float = Field(description="What the team gets before anything is lent.", examples=[4])
    limit: float | None = Field(description="What the team never exceeds; null for no limit.")
    max_running: int | None = Field(
        description="Number of experiments of the team that may have slots at once; null for no limit."
    )
    max_queued: int | None = Field(
        description="Number of experiments of the team that may wait: more are refused; null for no limit."
    )
    max_priority: int | None = Field(description="Higher priorities count as this one; null for no limit.")
    used: float | None = Field(
        description="What the slots of the team take now, in the unit of its quota; null while that is not known."
    )
    running: int = Field(description="Number of experiments of the team that have a driver.")
    queued: int = Field(description="Number of experiments of the team that wait.")
    hints: list[str] = Field(description="What an administrator should know after a change, a sentence each.")


class GrantList(BaseModel):
    """Grants of a pool, by team."""

    items: list[GrantView] = Field(description="The grants of the teams that you may see.")
