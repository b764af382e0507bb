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


#: Logged at every epoch, with the epoch (from 1) as the step.
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


#: Logged beside them, for diagnosis; `clean_train_accuracy` where mixup or smoothing distort the other.
DIAGNOSTICS = ("clean_train_accuracy", "loss_gap", "weight_norm", "update_ratio", "nonfinite_steps")


class TrialState(StrEnum):
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
    CODE = "CODE"  # everything else: it would fail again


RETRYABLE = frozenset({ErrorKind.LOST, ErrorKind.OUT_OF_MEMORY})


class Message(BaseModel):
    """Tolerant: a newer driver may say more than an older service knows."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")


def sanitize_text(text: str) -> str:
    """A text without what a database or JSON cannot hold: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _sanitize_if_text(value: Any) -> Any:
    return sanitize_text(value) if isinstance(value, str) else value


#: What a library or a person's code said, which may be anything.
Text = Annotated[str, BeforeValidator(_sanitize_if_text)]


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


#: What a network came to; None where that is not finite, for which JSON has no number.
FiniteOrNone = Annotated[float | None, AfterValidator(_finite)]


def _known(said: Any) -> Any:
    return said if said is None else Controls.model_validate(said, extra="ignore")


#: Tolerant too, at every depth: the spec of controls itself refuses what it does not know.
KnownControls = Annotated[Controls, BeforeValidator(_known)]


class TrialUpdate(Message):
    """The last known line of one trial. `trial` counts from 0 in an experiment; times are Unix seconds."""

    trial: int
    state: TrialState
    stop_reason: Text = ""
    epoch: int = Field(0, description="epochs finished")
    best_value: float | None = Field(None, description="best value of the objective so far")
    best_epoch: int | None = Field(None, description="the epoch (from 1) of the best value")
    metrics: dict[Text, float | None] = Field(
        default_factory=dict, description="of the last epoch; null for non-finite"
    )
    parameters: dict[Text, Text | float | int | bool] = Field(default_factory=dict, description="flat hyperparameters")
    sample: dict[Text, float] | None = Field(
        None, description="what the searcher drew; the spec bound to it is the trial"
    )
    mlflow_run_id: Text | None = None
    restarts: int = Field(0, description="times that it was tried again")
    error_kind: ErrorKind | None = Field(None, description="of its last failure")
    started_at: float | None = None
    ended_at: float | None = None


class Winner(Message):
    """The finalist, measured once on the test set."""

    trial: int
    value: float = Field(description="best value of the objective")
    test_accuracy: float
    test_loss: FiniteOrNone
    model_uri: Text | None = Field(None, description="MLflow address of the registered model")


class Heartbeat(Message):
    """Progress of one attempt. Lines are those changed since the last heartbeat that was answered."""

    phase: Literal["starting", "searching", "finalizing", "completed", "canceled", "paused", "failed"]
    reason: Text = ""
    blocked: bool = Field(False, description="with phase paused: another attempt is of no use before a person acts")
    trials: list[TrialUpdate] = Field(default_factory=list)
    mlflow_experiment_id: Text | None = None
    mlflow_run_id: Text | None = Field(None, description="the parent run")
    winner: Winner | None = None
    controls: KnownControls | None = Field(None, description="with phase completed: those under which the search ended")


class Directives(Message):
    """What the service wants. An attempt that is no longer the current one is answered 409: stop, write nothing."""

    slots: int = Field(description="trials that may run at once now")
    stop: Literal["cancel", "pause"] | None = None
    cancel_trials: list[int] = Field(default_factory=list, description="those asked for that have not ended")
    controls: KnownControls | None = Field(None, description="as they are now; None: unchanged")


class LaunchConfig(Message):
    """What a driver reads at its start: `layout.ExperimentFolder.launch_config`, readable by its owner only."""

    experiment_id: str
    attempt: int
    attempt_id: str = Field(description="exp-<experiment_id>-a<attempt>, also the id of the Ray job")
    service_url: str
    token: str = Field(description="bearer token of this attempt's heartbeat")
    heartbeat_s: float = 2.0
    slots: int
    controls: KnownControls | None = Field(None, description="as they are now; None: as the spec says")
    cancel_trials: list[int] = Field(default_factory=list, description="those asked for that have not ended")
    trials: int = Field(
        0, description="how many the service knows: a folder without a journal is then not the right one"
    )
    source: str | None = Field(None, description="folder of the experiment whose ended trials this one continues from")
    mlflow_tracking_uri: str
    mlflow_username: str | None = None
    mlflow_password: str | None = None
    storage: str = Field(description="the experiment's folder")
    data_root: str
    cache_root: str


def trial_folder(trial: int) -> str:
    """The name of a trial's folder among the `trials` of its experiment's folder."""
    return f"{trial:05d}"
