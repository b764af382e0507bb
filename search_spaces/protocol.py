"""Protocol: the vocabulary that the service and the driver share, and the messages between them.

The driver posts a `Heartbeat` to `/api/v1/attempts/{attempt_id}/heartbeat` every few seconds and whenever
a trial ends; the service answers with `Directives`. It is here because neither side may import the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from search_spaces.controls import Controls
from search_spaces.pool_nodes import PoolNodes
from search_spaces.resources import share_of_gpu

#: The path under which the service answers.
API_PREFIX = "/api/v1"

#: Most trials of one heartbeat, so that neither its size nor the time to store it exceeds a limit.
MAX_UPDATES = 500
#: Most metrics of a trial, and most values of its sample. Both are fewer than 200 in the largest specs.
MAX_VALUES = 1_000
#: Most hyperparameters of a trial: a spec of 64 KiB cannot name more.
MAX_PARAMETERS = 10_000
#: Most characters of the hyperparameters of a trial, names and values: several times those of a spec of 64 KiB.
MAX_PARAMETER_CHARACTERS = 2**19
#: Longest text from a library or from user code, in characters. The rest is cut.
MAX_TEXT = 10_000
#: Most nodes that a driver names, and the longest id of one: Ray uses 56 characters.
MAX_NODES, MAX_NODE_ID = 1_000, 128
#: Longest id in MLflow, which uses 32 characters.
MAX_MLFLOW_ID = 64
#: Most slots of one trial: that of the smallest share of a GPU.
MAX_SLOTS = 100
#: Trials and epochs are numbered below this, which any database can store.
MAX_NUMBER = 10**7


def attempt_id(experiment_id: str, attempt: int) -> str:
    """The id of an attempt (from 1), which is also the id of its Ray job."""
    return f"exp-{experiment_id}-a{attempt}"


#: Metrics of every epoch, with the epoch (from 1) as the step.
METRICS = (
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "validation_balanced_accuracy",
    "validation_macro_f1",
    "validation_calibration_error",
    "generalization_gap",
    "lr",
    "grad_norm",
    "epoch_seconds",
    "images_per_second",
)


#: Logged beside them; `validation_top5_accuracy` only with more than five classes, `clean_train_accuracy` only where
#: mixup, smoothing, class weights or balanced sampling distort the other.
DIAGNOSTICS = (
    "validation_top5_accuracy",
    "clean_train_accuracy",
    "loss_gap",
    "weight_norm",
    "update_ratio",
    "nonfinite_steps",
)


class TrialState(StrEnum):
    """The state of a trial."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    EARLY_STOPPED = "EARLY_STOPPED"
    DIVERGED = "DIVERGED"
    ERROR = "ERROR"
    CANCELED = "CANCELED"


#: States that a trial never leaves.
ENDED_TRIAL_STATES = frozenset(
    {TrialState.COMPLETED, TrialState.EARLY_STOPPED, TrialState.DIVERGED, TrialState.ERROR, TrialState.CANCELED}
)


#: States of trials that ended with a result. A continuation imports exactly these trials.
IMPORTED_STATES = frozenset({TrialState.COMPLETED, TrialState.EARLY_STOPPED, TrialState.DIVERGED})


class Phase(StrEnum):
    """What a driver does, or how its attempt has ended."""

    STARTING = "starting"
    SEARCHING = "searching"
    FINALIZING = "finalizing"
    DELIVERING = "delivering"  # sends MLflow the rest, and needs no slot
    COMPLETED = "completed"
    CANCELED = "canceled"
    PAUSED = "paused"
    FAILED = "failed"


#: Phases of a final heartbeat, after which the driver reports nothing more.
FINAL_PHASES = frozenset({Phase.COMPLETED, Phase.CANCELED, Phase.PAUSED, Phase.FAILED})


class Tag(StrEnum):
    """The tags that Rung sets on MLflow runs and registered models."""

    EXPERIMENT_ID = "rung.experiment_id"
    ROLE = "rung.role"
    LABELS = "rung.labels"
    STATE = "rung.state"
    REASON = "rung.reason"
    BEST_TRIAL = "rung.best_trial"
    BEST_RUN_ID = "rung.best_run_id"
    WINNER_TRIAL = "rung.winner_trial"
    WINNER_RUN_ID = "rung.winner_run_id"
    MODEL = "rung.model"
    MODEL_SHA256 = "rung.model_sha256"
    TRIAL_ID = "rung.trial_id"
    TRIAL_STATE = "rung.trial_state"
    STOP_REASON = "rung.stop_reason"
    REPLICATE_OF = "rung.replicate_of"
    CONTINUED_FROM = "rung.continued_from"
    ERROR_KIND = "rung.error_kind"
    RESTARTS = "rung.restarts"


#: Longest name of a registered model, in characters.
MODEL_NAME_CHARACTERS = 256


#: The team whose models have no prefix: that of everything which is stored without a team.
DEFAULT_TEAM = "default"
#: Between a team and the rest of a model's name. No project contains it, so that no two teams share a model.
TEAM_SEPARATOR = "~"


def registered_model_name(project: str, name: str, team: str = DEFAULT_TEAM) -> str:
    """The name under which the winners of an experiment of a team are registered."""
    prefix = "" if team == DEFAULT_TEAM else f"{team}{TEAM_SEPARATOR}"
    return f"{prefix}{project}.{name}"[:MODEL_NAME_CHARACTERS]


class RunStatus(StrEnum):
    """How an MLflow run has ended."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


#: Of a trial's run, by the state in which the trial ended.
TRIAL_RUN_STATUS = {
    TrialState.COMPLETED: RunStatus.FINISHED,
    TrialState.EARLY_STOPPED: RunStatus.FINISHED,
    TrialState.DIVERGED: RunStatus.FINISHED,
    TrialState.ERROR: RunStatus.FAILED,
    TrialState.CANCELED: RunStatus.KILLED,
}

#: Of an experiment's parent run, by the final phase of its driver.
PARENT_RUN_STATUS = {
    Phase.COMPLETED: RunStatus.FINISHED,
    Phase.CANCELED: RunStatus.KILLED,
    Phase.FAILED: RunStatus.FAILED,
}


class ErrorKind(StrEnum):
    """Why a trial failed. Those in RETRYABLE may pass when tried again; a loss that is not finite is no failure."""

    LOST = "LOST"  # its process or node died
    NODE = "NODE"  # its node cannot be used: it cannot use the storage, or has another version of Rung
    OUT_OF_MEMORY = "OUT_OF_MEMORY"  # of the device or of the host
    DATA = "DATA"  # damaged data, or data that no node can read
    PLUGIN = "PLUGIN"  # a class or plugin that the spec names cannot be imported
    DISK_FULL = "DISK_FULL"  # pauses the experiment
    CODE = "CODE"  # anything else: it would fail again


RETRYABLE = frozenset({ErrorKind.LOST, ErrorKind.NODE, ErrorKind.OUT_OF_MEMORY})


class Message(BaseModel):
    """Ignores unknown fields: a newer driver may send more than an older service knows."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")


def sanitize_text(text: str) -> str:
    """`text` without what a database or JSON cannot store: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _sanitize_if_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return sanitize_text(value if len(value) <= MAX_TEXT else f"{value[: MAX_TEXT - 3]}...")


#: Text from a library or from user code, which may contain anything and may be of any length.
Text = Annotated[str, BeforeValidator(_sanitize_if_text)]
MlflowId = Annotated[Text, Field(max_length=MAX_MLFLOW_ID)]
NodeId = Annotated[Text, Field(max_length=MAX_NODE_ID)]
#: A number of trials, epochs or restarts, counted from 0.
Number = Annotated[int, Field(ge=0, lt=MAX_NUMBER)]


class AtMost:
    """Pydantic marker of a list or mapping of at most `most` items. A longer one is refused before its items are read.

    pydantic's own `max_length` reads all items first, and makes an error of each that is wrong.
    """

    def __init__(self, most: int) -> None:
        self._most = most

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler(schema)
        return {**described, "maxItems" if described["type"] == "array" else "maxProperties": self._most}

    def _check(self, value: Any) -> Any:
        if isinstance(value, list | dict) and len(value) > self._most:
            raise PydanticCustomError(
                "too_many", "must have at most {most} items, not {count}", {"most": self._most, "count": len(value)}
            )
        return value


def _scalar(value: Any) -> Any:
    if isinstance(value, str):
        return _sanitize_if_text(value)
    if not isinstance(value, bool | int | float):
        raise PydanticCustomError("scalar", "must be a string, a number, true or false")
    return value


#: The value of a hyperparameter. One validator, because a union makes an error for each of its members.
Scalar = Annotated[str | float | int | bool, PlainValidator(_scalar, json_schema_input_type=str | float | int | bool)]


def parameter_characters(parameters: Mapping[str, Any]) -> int:
    """The size of hyperparameters as text."""
    return sum(len(name) + len(str(value)) for name, value in parameters.items())


def _check_characters(parameters: dict[str, Any]) -> dict[str, Any]:
    count = parameter_characters(parameters)
    if count > MAX_PARAMETER_CHARACTERS:
        raise PydanticCustomError(
            "too_many_characters",
            "must have at most {most} characters, not {count}",
            {"most": MAX_PARAMETER_CHARACTERS, "count": count},
        )
    return parameters


#: Hyperparameters by dotted path: of a bounded size, because a page has those of many trials.
Parameters = Annotated[dict[Text, Scalar], AtMost(MAX_PARAMETERS), AfterValidator(_check_characters)]


def finite_or_none(value: float | None) -> float | None:
    """JSON has no number for a value that is not finite."""
    return None if value is None or not math.isfinite(value) else value


#: A measured value; None where it is not finite.
FiniteOrNone = Annotated[float | None, AfterValidator(finite_or_none)]


def _known(controls: Any) -> Any:
    return controls if controls is None else Controls.model_validate(controls, extra="ignore")


#: Ignores unknown fields at every depth, although the spec of controls itself refuses them.
KnownControls = Annotated[Controls, BeforeValidator(_known)]


class TrialUpdate(Message):
    """The newest state of one trial. Times are Unix seconds."""

    trial: Number = Field(description="Number of the trial in its experiment, counted from 0.")
    state: TrialState = Field(description="Current state.")
    stop_reason: Text = Field(
        "", description="Why the trial ended, or why the stopping rule paused it; empty while it runs."
    )
    epoch: Number = Field(0, description="Number of finished epochs.")
    best_value: float | None = Field(None, description="Best value of the objective so far.")
    best_epoch: Number | None = Field(None, description="Epoch of the best value, counted from 1.")
    metrics: Annotated[dict[Text, float | None], AtMost(MAX_VALUES)] = Field(
        default_factory=dict, description="Metrics of the newest epoch; null where not finite."
    )
    parameters: Parameters = Field(default_factory=dict, description="Hyperparameters, by dotted path.")
    sample: Annotated[dict[Text, float], AtMost(MAX_VALUES)] | None = Field(
        None, description="The searcher's sample. Bound to it, the experiment's spec is the trial's spec."
    )
    mlflow_run_id: MlflowId | None = Field(None, description="The trial's run in MLflow.")
    restarts: Number = Field(0, description="Number of times the trial was restarted after a failure.")
    error_kind: ErrorKind | None = Field(None, description="Kind of its last failure.")
    slots: Annotated[int, Field(ge=1, le=MAX_SLOTS)] = Field(
        1, description="Number of slots that it holds while it runs: more than one where it has a GPU for itself."
    )
    started_at: float | None = Field(None, description="When the trial started.")
    ended_at: float | None = Field(None, description="When the trial ended.")


class Winner(Message):
    """The best trial, evaluated once on the test set."""

    trial: Number = Field(description="Number of the trial.")
    value: float = Field(description="Its best value of the objective.")
    test_accuracy: float = Field(description="Accuracy on the test set.")
    test_loss: FiniteOrNone = Field(description="Loss on the test set; null where not finite.")
    test_balanced_accuracy: FiniteOrNone = Field(
        None, description="Mean over classes of the share of their test images that are right."
    )
    test_macro_f1: FiniteOrNone = Field(None, description="Mean over classes of F1 on the test set.")
    test_top5_accuracy: FiniteOrNone = Field(
        None,
        description="Share of the test images whose class is among the five likeliest; null with up to five classes.",
    )
    test_calibration_error: FiniteOrNone = Field(None, description="Expected calibration error on the test set.")
    model_uri: Text | None = Field(None, description="URI of the registered model in MLflow.")
    model_sha256: Annotated[Text, Field(max_length=64)] | None = Field(
        None, description="Digest of the model's files, by which `rung model verify` recognizes them."
    )


class Speed(Message):
    """How fast so many trials train at once on one GPU, all together."""

    trials: Annotated[int, Field(ge=1, le=MAX_SLOTS)] = Field(description="Number of trials at once.")
    images_per_second: FiniteOrNone = Field(description="Images per second, of all of them together.")


class Packing(Message):
    """How many trials of an experiment share a GPU, measured with the largest configuration of its search space."""

    trials: Annotated[int, Field(ge=1, le=MAX_SLOTS)] = Field(description="Number of trials that share a GPU.")
    peak_bytes: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        None, description="Memory that a trial of the largest configuration needs; null if it was not measured."
    )
    total_bytes: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        None, description="Memory of the GPU on which it was measured; null if it was not measured."
    )
    speeds: Annotated[list[Speed], FailFast(), AtMost(MAX_SLOTS)] = Field(
        default_factory=list, description="How fast several of them train at once."
    )
    note: Text = Field("", description="Why more trials at once were not measured, or nothing; otherwise empty.")

    @property
    def gpus_per_trial(self) -> float:
        """The share of a GPU that each trial has."""
        return share_of_gpu(self.trials)


class Heartbeat(Message):
    """Progress of one attempt since the last heartbeat that the service answered."""

    phase: Phase = Field(description="What the driver does. A final heartbeat has one of the last four phases.")
    reason: Text = Field("", description="What the driver waits for, or why it ended, as a sentence.")
    blocked: bool = Field(
        False, description="With phase `paused`: another attempt would fail until a person has removed the cause."
    )
    trials: Annotated[list[TrialUpdate], FailFast(), AtMost(MAX_UPDATES)] = Field(
        default_factory=list, description="Trials that changed since the last heartbeat that was answered."
    )
    excluded_nodes: Annotated[list[NodeId], FailFast(), AtMost(MAX_NODES)] = Field(
        default_factory=list, description="Ids of the nodes that the experiment does not use: others get their slots."
    )
    leaving_nodes: Annotated[list[NodeId], FailFast(), AtMost(MAX_NODES)] = Field(
        default_factory=list,
        description="Ids of the nodes that have announced their end: no experiment gets slots there.",
    )
    packing: Packing | None = Field(
        None, description="With `gpus_per_trial: auto`: how many trials share a GPU, once it is measured."
    )
    mlflow_experiment_id: MlflowId | None = Field(None, description="The experiment in MLflow that holds the runs.")
    mlflow_run_id: MlflowId | None = Field(None, description="The parent run in MLflow.")
    mlflow_view: MlflowId | None = Field(None, description="Key of the experiment's view in MLflow, once it exists.")
    mlflow_behind_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="Seconds for which MLflow has lacked events of the experiment; 0 while it has all."
    )
    winner: Winner | None = Field(None, description="The winner, once it is evaluated.")
    controls: KnownControls | None = Field(
        None, description="With phase `completed`: the controls under which the search ended."
    )


class Directives(Message):
    """What a driver must do. A driver whose attempt was superseded is answered 409 instead."""

    slots: int = Field(description="Number of trials that may run at the same time now.")
    slot_nodes: dict[str, int] | None = Field(
        None, description="Number of these slots by the id of the node where they are; null: Ray chooses the nodes."
    )
    stop: Literal["cancel", "pause"] | None = Field(None, description="How to end; null to continue.")
    stop_reason: str = Field("", description="Why it must end; empty: a person requested it.")
    stop_epochs: bool = Field(
        False, description="Whether trials beyond `slots` must leave their epoch, rather than end it first."
    )
    cancel_trials: list[int] = Field(default_factory=list, description="Trials to cancel that have not ended.")
    controls: KnownControls | None = Field(None, description="The current controls; null if they did not change.")
    pool: PoolNodes | None = Field(None, description="The nodes that trials may use; null if that did not change.")


class LaunchConfig(Message):
    """What a driver reads at its start: `layout.ExperimentFolder.launch_config`, readable by its owner only."""

    experiment_id: str
    attempt: int
    attempt_id: str = Field(description="exp-<experiment_id>-a<attempt>, also the id of the Ray job")
    service_url: str
    token: str = Field(description="bearer token of this attempt's heartbeat")
    heartbeat_s: float = 2.0
    slots: int
    slot_nodes: dict[str, int] | None = Field(
        None, description="number of these slots by the id of their node; None: Ray chooses the nodes"
    )
    excluded_nodes: list[str] = Field(
        default_factory=list, description="ids of nodes that failed the attempt before, which this one does not use yet"
    )
    controls: KnownControls | None = Field(None, description="the current controls; None: as the spec says")
    cancel_trials: list[int] = Field(default_factory=list, description="trials to cancel that have not ended")
    trials: int = Field(
        0,
        description="number of trials that the service knows: if above 0, a folder without a journal is the wrong one",
    )
    failed_attempt: int = Field(
        0, description="the trials that failed up to this attempt, with which the experiment failed, are tried again"
    )
    source: str | None = Field(
        None, description="storage address of the experiment whose ended trials this one imports"
    )
    pool: PoolNodes = Field(default_factory=PoolNodes, description="the nodes that trials may use; by default all")
    packing: Packing | None = Field(
        None, description="with `gpus_per_trial: auto`: how many trials share a GPU, as an earlier attempt measured"
    )
    team: str = Field(DEFAULT_TEAM, description="team of the experiment, which is part of the name of its model")
    owner: str = Field("", description="login of the person whose experiment it is; empty where there are no accounts")
    earlier: list[str] | None = Field(
        None, description="storage addresses of the experiments that a warm start reads; None: it has none"
    )
    version: str = Field("", description="version of Rung of the service; empty: not compared")
    marker: str = Field("", description="content of the storage's `marker`, by which a node sees it; empty: none")
    mlflow_tracking_uri: str
    mlflow_username: str | None = None
    mlflow_password: str | None = None
    mlflow_workspace: str | None = Field(None, description="workspace of MLflow for the runs; None: without workspaces")
    storage: str = Field(description="the address of the experiment's storage")
    data_root: str
    cache_root: str
