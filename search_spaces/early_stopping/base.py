"""The stopping rule: the seam between a rule of early stopping and the search that obeys it.

Owns what a rule is given and what it answers. It must not know Ray, the journal or any rule by name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Protocol

from pydantic import Field

from search_spaces.domains import Integer, Number
from search_spaces.phrases import counted
from search_spaces.problems import Problem
from search_spaces.spec import Spec

#: The metric that may decide between trials of equal value.
LOSS = "validation_loss"


class Action(Enum):
    """What happens to a trial after an epoch.

    CONTINUE: the trial trains its next epoch.
    PAUSE: the trial yields its slot and keeps its checkpoint. It resumes from there when a slot is free that neither
    an interrupted nor a new trial can use.
    STOP: the trial ends as EARLY_STOPPED and never resumes.
    """

    CONTINUE = "continue"
    PAUSE = "pause"
    STOP = "stop"


@dataclass(frozen=True)
class Decision:
    """An action and, unless the trial continues, one sentence for the user that says why."""

    action: Action
    reason: str = ""


CONTINUE = Decision(Action.CONTINUE)


@dataclass(frozen=True)
class Comparison:
    """The facts of an experiment that a rule may use.

    `sign` is 1 if larger values of `metric` are better, otherwise -1.
    """

    metric: str
    sign: int
    max_epochs: int


class StoppingRule(Protocol):
    """Decides after each epoch whether a trial continues.

    A rule stores nothing. After a crash a new one is made, and `decide` is called again for every epoch that the
    journal has, in the same order. A decision may therefore depend on the calls before it and on nothing else: no
    clock, and no random numbers except from a fixed seed.
    """

    def decide(self, trial: int, epoch: int, value: float, loss: float | None = None) -> Decision:
        """The decision on `trial` after `epoch` (from 1), whose objective was `value` and validation loss `loss`.

        `loss` is None where the loss is not finite or was not reported.

        Called once for each epoch of a trial in ascending order, except after the last one if the trial completes with
        it. `value` is NaN for a trial that diverged in this epoch, also if it is the last: that trial has ended and
        the decision on it is ignored, but the rule may count it.
        """


class EarlyStoppingSpec(Spec):
    """The base of all rules. A member declares `kind: Literal[...]` with a default, and its own fields.

    `patience` goes with every rule: a trial is stopped by the member's rule or by `PatienceRule`.
    """

    kind: str
    patience: Annotated[Integer, Field(ge=1, le=10_000)] | None = Field(
        None,
        description="Number of epochs without an improvement on the trial's own best value after which it is stopped; "
        "default: no limit.",
    )
    min_delta: Annotated[Number, Field(ge=0)] = Field(
        0,
        description="Smallest change of the objective that counts as an improvement for `patience`; 0 counts every "
        "change for the better.",
    )

    def problems(self, max_epochs: int) -> Iterator[Problem]:
        """Problems of this rule with trials of `max_epochs` epochs, with paths from the root of the spec."""
        yield from ()

    def warnings(self, max_epochs: int) -> Iterator[Problem]:
        """Probable mistakes of this rule with trials of `max_epochs` epochs, with paths from the root of the spec."""
        if self.patience is None:
            if self.min_delta:
                rule = "has no effect without early_stopping.patience: set it, or omit this field"
                yield Problem("early_stopping.min_delta", rule, self.min_delta)
        elif self.patience > max_epochs - 2:
            most = f"should be at most {max_epochs - 2}" if max_epochs > 2 else "should be omitted"
            rule = f"{most}, otherwise it stops no trial before the last of its {counted(max_epochs, 'epoch')}"
            yield Problem("early_stopping.patience", rule, self.patience)

    def rungs(self, max_epochs: int) -> tuple[int, ...]:
        """The epochs before the last at which trials are compared, in ascending order."""
        return ()

    @property
    def keeps(self) -> float:
        """The share of the trials at a rung that continues in the long run."""
        return 1.0

    @abstractmethod
    def rule(self, comparison: Comparison) -> StoppingRule:
        """A new rule that has seen no epoch."""
