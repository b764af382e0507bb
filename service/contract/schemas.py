"""Schemas: what the service answers. Wire types only, apart from the tables behind them.

Tolerant where stored specs are read back: a spec of an older version is shown as it was accepted.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from search_spaces.protocol import TrialState
from service.contract.states import State


class BestTrial(BaseModel):
    """The leader so far, or the finalist."""

    trial: int
    value: float = Field(description="best value of the objective")


class ExperimentSummary(BaseModel):
    """One line of the list."""

    id: str = Field(examples=["k3v9q2mz"])
    name: str = Field(examples=["fashion-optimizers"])
    project: str = Field(examples=["vision"])
    labels: list[str] = Field(default_factory=list)
    state: State
    phase: str = Field(description="what the driver says it does: starting, searching, finalizing; empty without one")
    reason: str = Field(description="why it waits, failed or ended, as a sentence")
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    archived_at: datetime | None = Field(description="when it was hidden from the lists")
    revision: int = Field(description="grows with each move and change, not with progress; the ETag")
    source_id: str | None = Field(description="the experiment whose trials it continues from")
    metric: str = Field(examples=["validation_accuracy"])
    mode: str = Field(examples=["max"])
    num_samples: int = Field(description="trials asked for")
    trials: dict[TrialState, int] = Field(description="trials begun, by state")
    best: BestTrial | None
    slots: int = Field(description="trials that may run at once now")
    attempt: int = Field(description="number of the current driver; 0 before the first")
    mlflow_experiment_id: str | None
    mlflow_run_id: str | None = Field(description="the parent run")
    mlflow_url: str | None = Field(description="the parent run in MLflow's pages")


class AttemptView(BaseModel):
    """One driver."""

    id: str = Field(examples=["exp-k3v9q2mz-a1"])
    number: int
    state: str = Field(examples=["RUNNING"], description="STARTING, RUNNING, ENDED or LOST")
    phase: str
    reason: str
    created_at: datetime
    last_heartbeat_at: datetime | None
    ended_at: datetime | None


class ExperimentView(ExperimentSummary):
    """Everything about one experiment but its trials."""

    spec: dict[str, Any] = Field(description="the completed spec: every default written out")
    warnings: list[str]
    controls: dict[str, Any] = Field(description="what may be changed by PATCH, as it is now; at first as in the spec")
    winner: dict[str, Any] | None = Field(description="the finalist and its test accuracy, of the last end")
    attempts: list[AttemptView]


class ValidationResult(BaseModel):
    """The answer to `validate_only`."""

    spec: dict[str, Any]
    warnings: list[str]
    num_samples: int = Field(description="trials it would run")


class TrialView(BaseModel):
    """The last known line of one trial."""

    trial: int
    state: TrialState
    stop_reason: str = Field(examples=["rung 3: 0.81 is below the cut of 0.87"])
    epoch: int = Field(description="epochs finished")
    best_value: float | None = Field(description="best value of the objective so far")
    best_epoch: int | None = Field(None, description="the epoch (from 1) of the best value")
    metrics: dict[str, float | None] = Field(description="of the last epoch; null where not finite")
    parameters: dict[str, str | float | int | bool]
    mlflow_run_id: str | None
    mlflow_url: str | None
    restarts: int = Field(0, description="times that it was tried again after a failure")
    error_kind: str | None = Field(
        None,
        examples=["OUT_OF_MEMORY"],
        description="of its last failure: LOST, OUT_OF_MEMORY, DATA, DISK_FULL or CODE",
    )
    cancel_asked_at: datetime | None = Field(None, description="when a person asked for its end")
    started_at: datetime | None
    ended_at: datetime | None


class ExperimentPage(BaseModel):
    items: list[ExperimentSummary]
    next_cursor: str | None = Field(description="give it as `cursor` for the next page; null at the end")


class TrialPage(BaseModel):
    items: list[TrialView]
    next_cursor: str | None = Field(description="give it as `cursor` for the next page; null at the end")


class Point(BaseModel):
    step: int = Field(description="epoch, from 1")
    value: float | None = Field(description="null where not finite")
    timestamp: datetime


class Curves(BaseModel):
    """All metrics of one trial, by epoch."""

    trial: int
    mlflow_run_id: str
    metrics: dict[str, list[Point]]


class LogChunk(BaseModel):
    """A part of a log. Offsets are in bytes; what is no UTF-8 is replaced, and no character is cut in two."""

    text: str
    offset: int
    next_offset: int = Field(description="where the next piece begins")
    size: int = Field(description="bytes that there are now")
    complete: bool = Field(description="whoever wrote it has ended, and this is the end")
    attempt: int | None = Field(None, description="of a driver's log: its number")


class DiskUse(BaseModel):
    """What an experiment holds on its storage."""

    folder: str = Field(description="as the service sees it")
    total_bytes: int
    bytes_by_kind: dict[str, int] = Field(description="checkpoints, model, logs, pictures, journal, damaged and other")


class PresetName(BaseModel):
    name: str = Field(examples=["digits-quick"])
    description: str


class Preset(PresetName):
    spec: dict[str, Any]
    yaml: str = Field(description="the file as it is shipped, comments included")


class Check(BaseModel):
    ok: bool
    why: str = Field("", description="what is wrong; empty when ok")


class Health(BaseModel):
    status: str = Field(examples=["ok"])


class Readiness(BaseModel):
    """Ready means that specs can be accepted. With Ray away they queue; with MLflow away curves are late."""

    ready: bool
    database: Check
    ray: Check
    mlflow: Check


class NodeView(BaseModel):
    name: str
    cpus: float
    gpus: float


class Share(BaseModel):
    experiment_id: str
    name: str
    state: State
    slots: int
    cpus_per_trial: float
    gpus_per_trial: float


class ClusterStatus(BaseModel):
    """The cluster as last seen, and who may use how much of it."""

    reachable: bool
    why: str
    seen_at: datetime
    nodes: list[NodeView]
    shares: list[Share]
