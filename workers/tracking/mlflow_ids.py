"""MlflowIds: where an experiment's curves are in MLflow. It must not know MLflow's client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class MlflowIds:
    """Where the curves are; None until MLflow has answered. `runs` by trial. `view`: the key of the prepared page."""

    experiment: str | None = None
    parent: str | None = None
    runs: Mapping[int, str] = field(default_factory=dict)
    view: str | None = None


NO_IDS = MlflowIds()
