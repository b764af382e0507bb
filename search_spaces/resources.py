"""Resources: what each trial occupies while it runs, and the limits of all trials together."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from search_spaces.domains import Integer, Number
from search_spaces.gpu_types import GpuTypes
from search_spaces.pool_names import DEFAULT_POOL, POOL_NAME
from search_spaces.spec import Spec, field_error

#: Of `gpus_per_trial`: it is measured how many trials share a GPU.
AUTO: Literal["auto"] = "auto"
#: Where new trials of an experiment start.
PlacementRule = Literal["pack", "spread"]
GPUS_RULE = "must be auto, 0, between 0.01 and 1, or a whole number up to 16"
DURATION = r"^(\d+(?:\.\d+)?)\s*([smhd])$"


def _seconds(value: Any) -> Any:
    match = re.fullmatch(DURATION, value) if isinstance(value, str) else None
    if isinstance(value, str) and match is None:
        raise PydanticCustomError("duration", "must be seconds, or a number with s, m, h or d")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]] if match else value


Seconds = Annotated[
    Annotated[Number, Field(gt=0)],
    BeforeValidator(
        _seconds,
        json_schema_input_type=Annotated[float, Field(gt=0)] | Annotated[str, Field(pattern=DURATION)],
    ),
]


def _form_of_gpus(value: Any) -> str | None:
    return AUTO if value == AUTO else None if isinstance(value, str) else "number"


GpusPerTrial = Annotated[
    Annotated[Number, Field(ge=0, le=16), Tag("number")] | Annotated[Literal["auto"], Tag(AUTO)],
    Discriminator(
        _form_of_gpus,
        custom_error_type="gpus_per_trial",
        custom_error_message=GPUS_RULE,
    ),
]


def share_of_gpu(trials: int) -> float:
    """The largest `gpus_per_trial` with which so many trials are on one GPU: Ray counts in ten-thousandths."""
    return math.floor(10_000 / trials) / 10_000


def slots_of_gpu(gpus_per_trial: float) -> int:
    """Number of slots that are a whole GPU, rounded up unless less than 1 % is missing; 1 where a slot is no part of
    one."""
    return math.ceil(0.99 / gpus_per_trial) if 0 < gpus_per_trial < 1 else 1


class Resources(Spec):
    """The slot of each trial, and how many trials run at the same time."""

    gpus_per_trial: GpusPerTrial | None = Field(
        None,
        description="Number of GPUs: 0, a share of one GPU from 0.01, or a whole number of GPUs of one node, on which "
        "the trial is trained as on one, each with a part of every batch. With `auto`, the share with which trials are "
        "fastest together is measured before the first one, or it is 0 if the pool has no GPU. Default: 1 if the "
        "pool has any or can get any, otherwise 0.",
    )
    cpus_per_trial: Annotated[Integer, Field(ge=1, le=256)] = Field(1, description="Number of CPUs.")
    gpu_type: GpuTypes | None = Field(
        None,
        description="Type of the GPUs, such as `H100`, or a list of types that are allowed: `rung cluster` shows those "
        "that there are. Trials then have a GPU each unless `gpus_per_trial` says otherwise. Default: any.",
    )
    placement: PlacementRule | None = Field(
        None,
        description="Where new trials start: `pack` uses as few nodes as possible, `spread` as many. Default: wherever "
        "there is room.",
    )
    max_concurrent_trials: Annotated[Integer, Field(ge=1)] | None = Field(
        None,
        description="Largest number of trials that run at the same time; default: no limit except the cluster and the "
        "queue.",
    )
    pool: Annotated[str, Field(pattern=POOL_NAME)] = Field(
        DEFAULT_POOL, description="Pool of nodes on which the trials run, one that the team may use."
    )

    @model_validator(mode="before")
    @classmethod
    def _gpu_of_a_type(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("gpu_type") is not None and data.get("gpus_per_trial") is None:
            return {**data, "gpus_per_trial": 1}
        return data

    @model_validator(mode="after")
    def _gpu_share(self) -> Resources:
        gpus = self.gpus
        # Ray rounds shares to ten-thousandths: a smaller one would count as 0.
        if gpus is not None and (0 < gpus < 0.01 or (gpus > 1 and gpus != int(gpus))):
            raise field_error("gpus_per_trial", GPUS_RULE)
        if gpus == 0 and self.gpu_type is not None:
            raise field_error("gpu_type", "must be left out where gpus_per_trial is 0")
        return self

    @property
    def is_auto(self) -> bool:
        """Whether it is measured how many trials share a GPU."""
        return self.gpus_per_trial == AUTO

    @property
    def gpu_types(self) -> frozenset[str]:
        """The types of GPUs that are allowed; empty: any."""
        return frozenset([self.gpu_type] if isinstance(self.gpu_type, str) else self.gpu_type or ())

    @property
    def gpus(self) -> float | None:
        """Number of GPUs of a trial: a whole one until it is measured how many trials share one; None where the nodes
        decide."""
        return 1.0 if isinstance(self.gpus_per_trial, str) else self.gpus_per_trial

    def with_gpus(self, gpus_per_trial: float) -> Resources:
        """The same with the number of GPUs decided."""
        return Resources(**{**self.model_dump(), "gpus_per_trial": gpus_per_trial})


class Budget(Spec):
    """Hard limits. When one is reached, the experiment ends as COMPLETED with the best trial so far.

    It ends as ERROR if `failures` is reached before any trial has a value. `trials_without_improvement` only starts no
    further trials; for the others, running trials end at once.
    """

    gpu_hours: Annotated[Number, Field(gt=0)] | None = Field(
        None,
        description="GPU hours used by all trials (hours x GPUs per trial); default: no limit.",
    )
    slot_hours: Annotated[Number, Field(gt=0)] | None = Field(
        None, description="Hours for which trials held slots, summed over all trials; default: no limit."
    )
    wall_clock: Seconds | None = Field(
        None,
        description="Running time since the first trial started; time spent paused or queued does not count. A "
        "number of seconds, or a string such as 90m or 2h; default: no limit.",
    )
    failures: Annotated[Integer, Field(ge=1)] | None = Field(
        None, description="Number of trials that ended in ERROR after their restarts; default: no limit."
    )
    trials_without_improvement: Annotated[Integer, Field(ge=1)] | None = Field(
        None,
        description="Number of trials that have ended since the best value of all trials last improved, after which no "
        "further trial is started. Running trials end normally; if one has a better value, the search continues. "
        "Failed, canceled and imported trials do not count, nor does the one with the best value; default: no limit.",
    )
