"""Objective: the metric by which trials are compared, and the goal."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from search_spaces.domains import Number
from search_spaces.spec import Spec, field_error

Goal = Annotated[
    Number | None,
    Field(
        description="Value of the objective at which the experiment completes, once a trial reaches it; "
        "accuracy is a fraction (0.95), not a percentage; default: no goal."
    ),
]


Metric = Literal["validation_accuracy", "validation_balanced_accuracy", "validation_macro_f1", "validation_loss"]


class Objective(Spec):
    """The metric by which trials are compared, and the goal."""

    MODES: ClassVar[dict[str, Literal["min", "max"]]] = {
        "validation_accuracy": "max",
        "validation_balanced_accuracy": "max",
        "validation_macro_f1": "max",
        "validation_loss": "min",
    }

    metric: Metric = Field(
        "validation_accuracy",
        description="Metric of each epoch by which trials are compared. `validation_balanced_accuracy` is the mean "
        "over classes of the share of their images that are right, and `validation_macro_f1` the mean of their F1: "
        "with them, a class of few images counts as much as one of many.",
    )
    mode: Literal["min", "max"] = Field(
        "max",
        description="Which values are better: `min` for the loss, `max` for the others; default: the mode of the "
        "metric.",
    )
    goal: Goal = None

    @model_validator(mode="before")
    @classmethod
    def _mode_of_metric(cls, data: Any) -> Any:
        metric = data.get("metric") if isinstance(data, dict) and "mode" not in data else None
        return data | {"mode": cls.MODES[metric]} if isinstance(metric, str) and metric in cls.MODES else data

    @property
    def sign(self) -> int:
        """1 where larger values are better, -1 where smaller ones are."""
        return 1 if self.mode == "max" else -1

    @property
    def is_share(self) -> bool:
        """Whether its values are shares in [0, 1]."""
        return self.mode == "max"

    def is_better(self, value: float, other: float) -> bool:
        """Whether `value` is strictly better than `other`; False where either is NaN."""
        return self.sign * value > self.sign * other

    def rule_broken_by(self, goal: float) -> str | None:
        """The rule that a goal breaks which no trial can ever reach, such as an accuracy in percent."""
        if self.is_share:
            return None if 0 <= goal <= 1 else f"must be between 0 and 1 for {self.metric}"
        return None if goal >= 0 else f"must be at least 0 for {self.metric}"

    def reached(self, value: float, goal: float) -> bool:
        """Whether `value` is at least as good as `goal`."""
        return self.sign * value >= self.sign * goal

    @model_validator(mode="after")
    def _mode_fits(self) -> Objective:
        if self.mode != self.MODES[self.metric]:
            raise field_error("mode", f"must be {self.MODES[self.metric]} for {self.metric}")
        return self
