"""Schemas: the bodies of the service's responses. They describe what is sent, not the tables behind it.

A stored spec is upgraded but not judged before it is sent, so `spec` fields are plain mappings.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from search_spaces.protocol import ErrorKind, Packing, Phase, TrialState
from service.contract.forecast import Forecast
from service.contract.states import AttemptState, State

NEXT_CURSOR = "Pass it as `cursor` to get the next page; null on the last page."
#: Clients of the first version read `why`.
FORMER_NAME = "The same as `detail`, under its former name."
UNAVAILABLE_DETAIL = "Why the component is unavailable; empty while it works."


class BestTrial(BaseModel):
    """The trial with the best value of the search so far. Fresh seeds may choose another winner."""

    trial: int = Field(description="Number of the trial.")
    value: float = Field(description="Its best value of the objective.")


class Used(BaseModel):
    """What an experiment has used so far, its earlier attempts included."""

    slot_hours: float = Field(description="Hours for which it held slots, summed over all slots.")
    gpu_hours: float = Field(description="The same, times the GPUs of a slot.")
    cpu_hours: float = Field(description="The same, times the CPUs of a slot.")


class ExperimentSummary(BaseModel):
    """An experiment as lists show it."""

    id: str = Field(description="Identifier, unique in this service.", examples=["k3v9q2mz"])
    name: str = Field(description="Name from the spec; not unique.", examples=["fashion-optimizers"])
    project: str = Field(description="Project from the spec.", examples=["vision"])
    team: str = Field("default", description="Short name of the team that it belongs to.")
    owner: str | None = Field(
        None, description="Login of the person who submitted it; null for programs and without accounts."
    )
    labels: list[str] = Field(default_factory=list, description="Labels from the spec.")
    state: State = Field(description="Current state.")
    phase: Phase | Literal[""] = Field(
        description="What the driver reports that it is doing; empty while no driver runs."
    )
    reason: str = Field(description="Why the experiment waits, failed or ended, as a sentence.")
    created_at: datetime = Field(
        description="When the spec was accepted; after a clock was set back, a moment after the newest in the queue."
    )
    started_at: datetime | None = Field(description="When the first driver was launched.")
    ended_at: datetime | None = Field(description="When the experiment last ended.")
    archived_at: datetime | None = Field(description="When it was archived, that is, hidden from lists.")
    revision: int = Field(
        description="Number that grows with each change of state and each request that changes the experiment, but not "
        "with progress; the ETag holds it."
    )
    source_id: str | None = Field(
        description="The experiment whose trials this one continues from; null if it belongs to a team that the caller "
        "may not see."
    )
    metric: str = Field(description="Metric that the objective compares.", examples=["validation_accuracy"])
    mode: Literal["min", "max"] = Field(description="Which values are better.", examples=["max"])
    num_samples: int = Field(description="Number of trials wanted, imported ones included.")
    trials: dict[TrialState, int] = Field(
        description="Number of trials that have started, by state. States without trials are absent."
    )
    best: BestTrial | None = Field(description="The best trial so far; null before any trial finished an epoch.")
    priority: int = Field(0, description="Its priority inside its team now.")
    slots: int = Field(description="Number of trials that may run at the same time now.")
    used: Used | None = Field(None, description="What it has used; null from a service that does not count it.")
    attempt: int = Field(description="Number of the current attempt; 0 before the first one.")
    mlflow_experiment_id: str | None = Field(description="The experiment in MLflow that holds the runs.")
    mlflow_run_id: str | None = Field(description="The parent run in MLflow.")
    mlflow_url: str | None = Field(description="URL of the parent run in MLflow's web interface.")
    mlflow_view_url: str | None = Field(
        None,
        description="URL of a page of MLflow's web interface with the trials: their curves, searched hyperparameters "
        "and best values. Null until the driver has prepared it, and for experiments of version 0.1.",
    )
    mlflow_workspace: str | None = Field(
        None,
        description="Workspace of MLflow that has the runs and the model, for the variable `MLFLOW_WORKSPACE` and the "
        "header `X-MLFLOW-WORKSPACE`; null where MLflow had no workspaces when the experiment began.",
        examples=["vision"],
    )


class AttemptView(BaseModel):
    """One attempt: one driver process of an experiment."""

    id: str = Field(description="Identifier of the attempt and of its Ray job.", examples=["exp-k3v9q2mz-a1"])
    number: int = Field(description="Number of the attempt, counted from 1.")
    state: AttemptState = Field(description="Current state.")
    phase: Phase | Literal[""] = Field(description="Phase in the driver's newest heartbeat; empty before the first.")
    reason: str = Field(description="Why the driver ended or was lost, as a sentence.")
    created_at: datetime = Field(description="When the service began to launch the driver.")
    last_heartbeat_at: datetime | None = Field(description="When the service received its newest heartbeat.")
    ended_at: datetime | None = Field(description="When the driver ended or was lost.")


class ExperimentView(ExperimentSummary):
    """Everything about an experiment except its trials."""

    spec: dict[str, Any] = Field(description="The complete spec, with every default written out.")
    warnings: list[str] = Field(
        description="Warnings about valid settings that are probably mistakes, one sentence each."
    )
    controls: dict[str, Any] = Field(
        description="The controls, which PATCH can change, with their current values; at first the values of the spec."
    )
    priority_ceiling: int | None = Field(
        None, description="Highest priority that counts in its team; null for no limit."
    )
    winner: dict[str, Any] | None = Field(
        description="The best trial with its accuracy and loss on the test set, measured when the experiment "
        "last completed."
    )
    packing: Packing | None = Field(
        None,
        description="How many trials share a GPU, once the first driver has measured it; null unless the spec has "
        "`gpus_per_trial: auto`, and where trials have no GPU.",
    )
    attempts: list[AttemptView] = Field(description="All attempts, oldest first.")


class ValidationResult(BaseModel):
    """The response to `validate_only`: the spec is valid, and nothing was stored."""

    spec: dict[str, Any] = Field(description="The complete spec, with every default written out.")
    warnings: list[str] = Field(
        description="Warnings about valid settings that are probably mistakes, one sentence each."
    )
    num_samples: int = Field(description="Number of trials that the experiment would run.")
    forecast: Forecast | None = Field(None, description="What it will probably take; null from an older service.")


class TrialView(BaseModel):
    """One trial as its driver last reported it."""

    trial: int = Field(description="Number of the trial, counted from 0.")
    state: TrialState = Field(description="Current state.")
    stop_reason: str = Field(
        description="Why the trial ended, or why the stopping rule paused it; empty while it runs.",
        examples=[
            "rung at epoch 3: validation_accuracy 0.8100 is below 0.8700, the cutoff for the best 1/3 of 9 earlier "
            "trials"
        ],
    )
    epoch: int = Field(description="Number of finished epochs.")
    best_value: float | None = Field(description="Best value of the objective so far.")
    best_epoch: int | None = Field(None, description="Epoch of the best value, counted from 1.")
    metrics: dict[str, float | None] = Field(description="Metrics of the newest epoch; null where not finite.")
    parameters: dict[str, str | float | int | bool] = Field(description="Hyperparameters, by dotted path.")
    mlflow_run_id: str | None = Field(description="The trial's run in MLflow.")
    mlflow_url: str | None = Field(description="URL of the run in MLflow's web interface.")
    restarts: int = Field(0, description="Number of times the trial was restarted after a failure.")
    error_kind: ErrorKind | None = Field(None, description="Kind of its last failure.", examples=["OUT_OF_MEMORY"])
    slots: int = Field(
        1,
        description="Number of slots that it holds while it runs: more than one since it exceeded its share of a GPU, "
        "as it then has a GPU for itself.",
    )
    cancel_asked_at: datetime | None = Field(None, description="When a person requested its cancellation.")
    started_at: datetime | None = Field(description="When the trial started.")
    ended_at: datetime | None = Field(description="When the trial ended.")


class ExperimentPage(BaseModel):
    """One page of a list of experiments."""

    items: list[ExperimentSummary] = Field(description="Experiments, newest first.")
    next_cursor: str | None = Field(description=NEXT_CURSOR)


class TrialPage(BaseModel):
    """One page of an experiment's trials."""

    items: list[TrialView] = Field(description="Trials in the requested order.")
    next_cursor: str | None = Field(description=NEXT_CURSOR)


class Point(BaseModel):
    """One value of a metric."""

    step: int = Field(description="Epoch, counted from 1.")
    value: float | None = Field(description="Value of the metric; null where not finite.")
    timestamp: datetime = Field(description="When the value was logged.")


class Curves(BaseModel):
    """Every metric of one trial, by epoch."""

    trial: int = Field(description="Number of the trial.")
    mlflow_run_id: str = Field(description="The run that the curves were read from.")
    metrics: dict[str, list[Point]] = Field(description="Points of each metric, in the order of their epochs.")


class LogChunk(BaseModel):
    """A part of a log. Offsets count bytes. Invalid UTF-8 is replaced, and no character is split between chunks."""

    text: str = Field(description="Text of this part.")
    offset: int = Field(description="Where this part begins, in bytes from the start of the log.")
    next_offset: int = Field(description="Where the next part begins, in bytes from the start of the log.")
    size: int = Field(description="Number of bytes that the log has now.")
    complete: bool = Field(description="Whether the process that wrote the log has ended and this is its last part.")
    attempt: int | None = Field(None, description="For a driver's log: the number of its attempt.")


class DiskUse(BaseModel):
    """The disk space that an experiment uses."""

    folder: str = Field(
        description="Location of the experiment's files: a path on the service's host, or the URL of another storage."
    )
    total_bytes: int = Field(description="Size of all files together, in bytes.")
    bytes_by_kind: dict[str, int] = Field(
        description="Size in bytes by kind of file: checkpoints, model, logs, pictures, journal, damaged and other."
    )


class PresetName(BaseModel):
    """A preset as lists show it."""

    name: str = Field(description="Name of the preset.", examples=["digits-quick"])
    description: str = Field(description="What the preset searches for.")


class Preset(PresetName):
    """A ready-made spec."""

    spec: dict[str, Any] = Field(description="The spec as data.")
    yaml: str = Field(description="The spec as a YAML file, with its comments.")


class Check(BaseModel):
    """Whether one component works."""

    ok: bool = Field(description="Whether the component works.")
    detail: str = Field("", description=UNAVAILABLE_DETAIL)
    why: str = Field("", description=FORMER_NAME, deprecated=True)


class Health(BaseModel):
    """The process answers requests."""

    status: Literal["ok"] = Field(description="Always `ok`.")


class Readiness(BaseModel):
    """Whether the service accepts specs.

    While Ray is unavailable, experiments stay queued. While MLflow is unavailable, curves are delayed.
    """

    ready: bool = Field(description="Whether the database works, which is all that accepting a spec needs.")
    database: Check = Field(description="The service's database.")
    ray: Check = Field(description="The Ray cluster that runs the trials.")
    mlflow: Check = Field(description="The MLflow server that holds curves and models.")
    storage: Check = Field(
        default=Check(ok=True),
        description="The storage of the experiments. While it is missing or another one, nothing starts or is deleted.",
    )


class NodeView(BaseModel):
    """A node of the cluster."""

    name: str = Field(description="Name of the node in Ray.")
    cpus: float = Field(description="Number of CPUs, used or free.")
    gpus: float = Field(description="Number of GPUs, used or free.")
    gpu_type: str = Field("", description="Type of its GPUs, as `resources.gpu_type` of a spec; empty if not known.")
    pool: str = Field("default", description="Pool to which it belongs.")
    labels: dict[str, str] = Field(default_factory=dict, description="Its labels in Ray.")


class Share(BaseModel):
    """What one active experiment may use of the cluster."""

    experiment_id: str = Field(description="Identifier of the experiment.")
    name: str = Field(description="Name of the experiment.")
    state: State = Field(description="State of the experiment.")
    slots: int = Field(description="Number of trials that may run at the same time.")
    cpus_per_trial: float = Field(description="CPUs of each trial.")
    gpus_per_trial: float = Field(description="GPUs of each trial.")
    priority: int = Field(0, description="Priority of the experiment.")
    pool: str = Field("default", description="Pool on whose nodes it runs.")
    waits_for: str = Field("", description="What it waits for while it has no slot, as in the queue.")


class ClusterStatus(BaseModel):
    """The cluster when the service last saw it, and how it is shared out."""

    reachable: bool = Field(description="Whether Ray answers.")
    detail: str = Field(description=UNAVAILABLE_DETAIL)
    seen_at: datetime = Field(description="When the service last asked Ray.")
    nodes: list[NodeView] = Field(description="All nodes that are alive.")
    shares: list[Share] = Field(description="One page of the running or queued experiments, oldest first.")
    next_cursor: str | None = Field(None, description=NEXT_CURSOR)
    why: str = Field("", description=FORMER_NAME, deprecated=True)
