"""Shares: what is shared (a pool), by whom (grants), what is demanded, and what each experiment gets.

Plain values. They must not know how slots are divided, nor where pools and grants are stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from search_spaces.resources import PlacementRule


class Why(StrEnum):
    """Why an experiment has no more slots."""

    ENOUGH = "it has all the slots that it can use"
    NODE = "no living node is large enough"
    HOLD = "the pool starts nothing"
    BUDGET = "the budget of its team for this month is spent"
    LIMIT = "the limit of its team"
    MAX_RUNNING = "as many experiments of its team run as may"
    DRIVERS = "as many experiments run as may"
    DRAINING = "a node is being freed for it"
    MOVING = "its trials leave a node that another one needs"
    TEAM = "others of its team come first"
    SHARE = "the share of its team, beside other teams"


class Stop(StrEnum):
    """Whether a pool starts experiments: `hold` starts none, `drain` also takes back all slots."""

    NONE = "none"
    HOLD = "hold"
    DRAIN = "drain"


@dataclass(frozen=True)
class Pool:
    """The nodes that are shared. `max_running`: number of experiments that may have slots at once."""

    stop: Stop = Stop.NONE
    max_running: int | None = None


@dataclass(frozen=True)
class Grant:
    """What a team may use of a pool.

    `quota` is guaranteed, `limit` never exceeded; what is above the quota is shared by `weight`. `borrowed`, what the
    team had beyond its part lately, decides only between teams that are equal otherwise. `is_spent`: it gets nothing,
    because its budget is spent.
    """

    weight: float = 1
    quota: float = 0
    limit: float | None = None
    max_running: int | None = None
    max_priority: int | None = None
    borrowed: float = 0
    is_spent: bool = False

    def __post_init__(self) -> None:
        if not self.weight >= 1:
            raise ValueError(f"weight must be at least 1 (got {self.weight})")


@dataclass(frozen=True)
class Demand:
    """Up to `most` slots of this size, on nodes whose ids are not `excluded`, with GPUs of one of `gpu_types`, if there
    are any.

    `held`: ids of the nodes on which its trials run now, an empty one where that is unknown; those that are not of the
    pool have to be left. `running`: it has a driver. `placement`: whether it wants few nodes, or many.
    """

    experiment_id: str
    cpus: float
    gpus: float = 0
    most: int = 1
    running: bool = False
    priority: int = 0
    excluded: frozenset[str] = frozenset()
    gpu_types: frozenset[str] = frozenset()
    team: str = "default"
    person: str = ""
    submitted_at: float = 0
    held: tuple[str, ...] = ()
    protected: bool = False
    placement: PlacementRule | None = None


@dataclass(frozen=True)
class Share:
    """`why` there are no more slots; the `nodes` of the slots; `turn`: its place in the order of those that wait.

    `cost` of the slots together, in the unit of quotas. `is_scarce`: its team wants more than its part of what is lent.
    """

    slots: int
    why: Why = Why.ENOUGH
    nodes: tuple[str, ...] = ()
    turn: int = 0
    cost: float = 0
    is_scarce: bool = False
