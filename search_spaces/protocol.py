"""Protocol: the vocabulary that the service and the driver share, and the messages between them.

The driver posts a `Heartbeat` to `/api/v1/attempts/{attempt_id}/heartbeat` every few seconds and whenever
a trial ends; the service answers with `Directives`. It is here because neither side may import the other.
"""

from __future__ import annotations

import errno
import math
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from search_spaces.controls import Controls

#: The path under which the service answers.
API_PREFIX = "/api/v1"

#: What the operating system reports when a disk or a quota is full.
DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})


def attempt_id(experiment_id: str, attempt: int) -> str:
    """The id of an attempt (from 1), which is also the id of its Ray job."""
    return f"exp-{experiment_id}-a{attempt}"


#: Metrics of every epoch, with the epoch (from 1) as the step.
METRICS = (
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "generalization_gap",
    "lr",
    "grad_norm",
    "epoch_seconds",
    "images_per_second",
)


#: Logged beside them, for diagnosis; `clean_train_accuracy` only where mixup or smoothing distort the other.
DIAGNOSTICS = ("clean_train_accuracy", "loss_gap", "weight_norm", "update_ratio", "nonfinite_steps")


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


class Tag(StrEnum):
    """The tags that Rung sets on MLflow runs and registered models."""

    EXPERIMENT_ID = "rung.experiment_id"
    ROLE = "rung.role"
    LABELS = "rung.labels"
    STATE = "rung.state"
    REASON = "rung.reason"
    BEST_TRIAL = "rung.best_trial"
    BEST_RUN_ID = "rung.best_run_id"
    MODEL = "rung.model"
    TRIAL_ID = "rung.trial_id"
    TRIAL_STATE = "rung.trial_state"
    STOP_REASON = "rung.stop_reason"
    CONTINUED_FROM = "rung.continued_from"
    ERROR_KIND = "rung.error_kind"
    RESTARTS = "rung.restarts"


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
    "completed": RunStatus.FINISHED,
    "canceled": RunStatus.KILLED,
    "failed": RunStatus.FAILED,
}


class ErrorKind(StrEnum):
    """Why a trial failed. Those in RETRYABLE may pass when tried again; a loss that is not finite is no failure."""

    LOST = "LOST"  # its process or node died
    OUT_OF_MEMORY = "OUT_OF_MEMORY"  # of the device or of the host
    DATA = "DATA"  # absent, damaged or unreadable data
    DISK_FULL = "DISK_FULL"  # pauses the experiment
    CODE = "CODE"  # anything else: it would fail again


RETRYABLE = frozenset({ErrorKind.LOST, ErrorKind.OUT_OF_MEMORY})


class Message(BaseModel):
    """Ignores unknown fields: a newer driver may send more than an older service knows."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")


def sanitize_text(text: str) -> str:
    """`text` without what a database or JSON cannot store: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _sanitize_if_text(value: Any) -> Any:
    return sanitize_text(value) if isinstance(value, str) else value


#: Text from a library or from user code, which may contain anything.
Text = Annotated[str, BeforeValidator(_sanitize_if_text)]


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


#: A measured value; None where it is not finite, for which JSON has no number.
FiniteOrNone = Annotated[float | None, AfterValidator(_finite)]


def _known(controls: Any) -> Any:
    return controls if controls is None else Controls.model_validate(controls, extra="ignore")


#: Ignores unknown fields at every depth, although the spec of controls itself refuses them.
KnownControls = Annotated[Controls, BeforeValidator(_known)]


class TrialUpdate(Message):
    """The newest state of one trial. Times are Unix seconds."""

    trial: int = Field(description="Number of the trial in its experiment, counted from 0.")
    state: TrialState = Field(description="Current state.")
    stop_reason: Text = Field("", description="Why the trial ended; empty while it runs.")
    epoch: int = Field(0, description="Number of finished epochs.")
    best_value: float | None = Field(None, description="Best value of the objective so far.")
    best_epoch: int | None = Field(None, description="Epoch of the best value, counted from 1.")
    metrics: dict[Text, float | None] = Field(
        default_factory=dict, description="Metrics of the newest epoch; null where not finite."
    )
    parameters: dict[Text, Text | float | int | bool] = Field(
        default_factory=dict, description="Hyperparameters, by dotted path."
    )
    sample: dict[Text, float] | None = Field(
        None, description="The searcher's sample. Bound to it, the experiment's spec is the trial's spec."
    )
    mlflow_run_id: Text | None = Field(None, description="The trial's run in MLflow.")
    restarts: int = Field(0, description="Number of times the trial was restarted after a failure.")
    error_kind: ErrorKind | None = Field(None, description="Kind of its last failure.")
    started_at: float | None = Field(None, description="When the trial started.")
    ended_at: float | None = Field(None, description="When the trial ended.")


class Winner(Message):
    """The best trial, evaluated once on the test set."""

    trial: int = Field(description="Number of the trial.")
    value: float = Field(description="Its best value of the objective.")
    test_accuracy: float = Field(description="Accuracy on the test set.")
    test_loss: FiniteOrNone = Field(description="Loss on the test set; null where not finite.")
    model_uri: Text | None = Field(None, description="Address of the registered model in MLflow.")


class Heartbeat(Message):
    """Progress of one attempt since the last heartbeat that the service answered."""

    phase: Literal["starting", "searching", "finalizing", "completed", "canceled", "paused", "failed"] = Field(
        description="What the driver does. The last four phases are those of a final heartbeat."
    )
    reason: Text = Field("", description="What the driver waits for, or why it ended, as a sentence.")
    blocked: bool = Field(
        False, description="With phase `paused`: another attempt would fail until a person has removed the cause."
    )
    trials: list[TrialUpdate] = Field(
        default_factory=list, description="Trials that changed since the last heartbeat that was answered."
    )
    mlflow_experiment_id: Text | None = Field(None, description="The experiment in MLflow that holds the runs.")
    mlflow_run_id: Text | None = Field(None, description="The parent run in MLflow.")
    winner: Winner | None = Field(None, description="The winner, once it is evaluated.")
    controls: KnownControls | None = Field(
        None, description="With phase `completed`: the controls under which the search ended."
    )


class Directives(Message):
    """What a driver must do. A driver whose attempt was superseded is answered 409 instead."""

    slots: int = Field(description="Number of trials that may run at the same time now.")
    stop: Literal["cancel", "pause"] | None = Field(None, description="How to end; null to continue.")
    cancel_trials: list[int] = Field(default_factory=list, description="Trials to cancel that have not ended.")
    controls: KnownControls | None = Field(None, description="The current controls; null if they did not change.")


class LaunchConfig(Message):
    """What a driver reads at its start: `layout.ExperimentFolder.launch_config`, readable by its owner only."""

    experiment_id: str
    attempt: int
    attempt_id: str = Field(description="exp-<experiment_id>-a<attempt>, also the id of the Ray job")
    service_url: str
    token: str = Field(description="bearer token of this attempt's heartbeat")
    heartbeat_s: float = 2.0
    slots: int
    controls: KnownControls | None = Field(None, description="the current controls; None: as the spec says")
    cancel_trials: list[int] = Field(default_factory=list, description="trials to cancel that have not ended")
    trials: int = Field(
        0,
        description="number of trials that the service knows: if above 0, a folder without a journal is the wrong one",
    )
    source: str | None = Field(
        None, description="storage address of the experiment whose ended trials this one imports"
    )
    mlflow_tracking_uri: str
    mlflow_username: str | None = None
    mlflow_password: str | None = None
    storage: str = Field(description="the address of the experiment's storage")
    data_root: str
    cache_root: str


def trial_folder(trial: int) -> str:
    """The name of a trial's folder among the `trials` of its experiment's folder."""
    return f"{trial:05d}"
