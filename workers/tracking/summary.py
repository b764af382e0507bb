"""Summary: what an experiment's own run in MLflow says once the experiment has ended.

Owns its metrics, tags and status. The service sets the same status where no driver is left to do it
(`service.cleanup.finalizer`). It must not know MLflow's client, nor why the experiment ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from search_spaces.protocol import PARENT_RUN_STATUS, Phase, RunStatus, Tag, Winner
from workers.state.trial_table import TrialTable


@dataclass(frozen=True)
class Summary:
    """`step` is that of the metrics: it is larger each time that an extended experiment ends."""

    status: RunStatus
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    step: int = 0


def summarize(phase: Phase, reason: str, table: TrialTable, runs: Mapping[int, str], winner: Winner | None) -> Summary:
    """The summary of an experiment that ended in `phase` with these trials; `runs` are their runs in MLflow."""
    metrics: dict[str, float] = {f"trials_{state.lower()}": count for state, count in table.counts().items()}
    tags: dict[str, str] = {Tag.STATE: phase.upper(), Tag.REASON: reason}
    best = table.best()
    if best is not None and best.best_value is not None:
        metrics |= {"best_value": best.best_value, "best_trial": best.number}
        tags |= {Tag.BEST_TRIAL: str(best.number), Tag.BEST_RUN_ID: runs[best.number]}
    if winner is not None:
        metrics["test_accuracy"] = winner.test_accuracy
        if winner.test_loss is not None:
            metrics["test_loss"] = winner.test_loss
        tags[Tag.MODEL] = winner.model_uri or ""
    return Summary(PARENT_RUN_STATUS[phase], metrics, tags, step=len(table.trials))
