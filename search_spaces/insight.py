"""Insight: why the winner of an experiment won, how sure that is, and what to try next.

The workers make it when a search ends, and the service shows it. It must not know how it is computed, nor what is shown
of it.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from search_spaces.scores import Scores

VERSION = 1  # of `insight.json`


class Part(BaseModel):
    """Ignores unknown fields: newer workers may write more."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Interval(Part):
    """An accuracy in [0, 1], or a difference of two, with its 95 % interval."""

    value: float = Field(description="The accuracy or the difference.")
    low: float = Field(description="Lower end of its 95 % interval.")
    high: float = Field(description="Upper end of its 95 % interval.")


class Choice(Part):
    """The winner."""

    trial: int = Field(description="Number of the trial.")
    run: int | None = Field(
        None,
        description="Number of its run whose weights are registered: itself, or, where fresh seeds chose it, one of "
        "them. Null where an older version made the insight.",
    )
    best_of_search: int | None = Field(
        None, description="Number of the trial with the best value of the search, which fresh seeds may have beaten."
    )
    value: float = Field(description="The best value of the objective of that run.")
    epoch: int = Field(description="Epoch of that value, counted from 1.")
    trials: int = Field(description="Number of trials that have a value, of which it was chosen.")
    without_value: int = Field(
        0, description="Number of the other trials, whose objective was never finite: they diverged or failed at once."
    )
    parameters: dict[str, str | float | int | bool] = Field(
        description="Its searched hyperparameters, by dotted path; those that the spec fixes are left out."
    )


class Ranked(Part):
    """A trial and its accuracy on the validation images."""

    trial: int = Field(description="Number of the trial.")
    accuracy: Interval = Field(description="Validation accuracy of its best epoch, with Wilson's interval.")
    tie: bool = Field(description="Whether it is the winner, or cannot be distinguished from it.")


class Sureness(Part):
    """How sure the choice is. What could not be computed is null, and `notes` say why."""

    validation_images: int | None = Field(None, description="Number of validation images that trials are compared on.")
    compared: int = Field(
        0, description="Number of trials whose right and wrong images are known, the winner included."
    )
    ties: list[int] | None = Field(
        None,
        description="Numbers of the trials that cannot be distinguished from the winner: finalists with fresh seeds if "
        "the interval of their difference contains 0, others by exact one-sided McNemar tests of the validation images "
        "in the search, corrected by Holm, at 5 %.",
    )
    best: list[Ranked] = Field(default_factory=list, description="The best of the compared trials, at most 30.")
    expected: Interval | None = Field(
        None,
        description="Validation accuracy to expect of a trial that was chosen as the winner was, on images that did "
        "not choose it (bootstrap bias correction). The interval is at least Wilson's of the validation images.",
    )
    test: Interval | None = Field(None, description="Accuracy of the winner on the test set, with Wilson's interval.")
    test_images: int | None = Field(None, description="Number of test images.")
    overtuned: bool | None = Field(
        None,
        description="Whether the test accuracy is lower than the expected one, beyond what chance explains: Fisher's "
        "exact one-sided test of validation and test images, at 5 %. That the best of many trials was chosen is not "
        "the cause: the expected accuracy knows that.",
    )
    notes: list[str] = Field(default_factory=list, description="What could not be computed, and why.")


class Finalist(Part):
    """A trial that was trained again with fresh seeds."""

    trial: int = Field(description="Number of the trial.")
    runs: list[int] = Field(description="Numbers of its runs with fresh seeds.")
    values: list[float] = Field(description="The best value of the objective of each run.")
    mean: float = Field(description="Mean of the values.")
    sd: float | None = Field(description="Standard deviation of the values over seeds; null for one seed.")
    accuracy: Interval | None = Field(
        None,
        description="Mean validation accuracy with a 95 % interval (two-level bootstrap of seeds and images); null "
        "with another objective, and for one seed.",
    )
    difference: Interval | None = Field(
        None,
        description="Accuracy of the chosen one minus that of this one, paired on the images, with a 95 % interval; "
        "null for the chosen one, and for one seed.",
    )


class Replication(Part):
    """The finalists, trained again with fresh seeds. The search's own values play no part: they were chosen."""

    chosen: int = Field(description="Number of the trial with the best mean, which won.")
    finalists: list[Finalist] = Field(
        description="The finalists, the best mean first, without those that diverged with a fresh seed."
    )
    expected: float | None = Field(
        None,
        description="Value of the objective to expect of a finalist that was chosen in this way: chosen by all seeds "
        "but one, and measured with that one, averaged over the seeds; null for one seed.",
    )
    difference: Interval | None = Field(
        None,
        description="Accuracy of the chosen one minus that of the runner-up, paired on the images, with a 95 % "
        "interval.",
    )


class Bar(Part):
    """How much of the differences between trials a hyperparameter explains by itself, as a share in [0, 1]."""

    name: str = Field(description="Hyperparameter, by the path of its domain in the spec's search space.")
    share: float = Field(description="Median over bootstraps of the trials.")
    low: float = Field(description="Lower end of 80 % of the bootstraps.")
    high: float = Field(description="Upper end of 80 % of the bootstraps.")
    noise: bool = Field(description="Whether it cannot be distinguished from a hyperparameter that does not exist.")


class Group(Part):
    """The hyperparameters that apply to the same trials, the most important first."""

    within: str | None = Field(None, description="Alternative that these trials chose; null for all trials.")
    trials: int = Field(description="Number of trials that were analyzed.")
    bars: list[Bar] = Field(description="The hyperparameters.")


class Importance(Part):
    """The hyperparameters that matter (fANOVA of a random forest)."""

    epoch: int | None = Field(
        None, description="Epoch whose values were analyzed: the highest that 80 % of the trials reached."
    )
    groups: list[Group] = Field(
        default_factory=list, description="First that of all trials, then those of alternatives."
    )
    note: str = Field("", description="Why there is none, or what was left out.")


class PathStep(Part):
    """A change on the way from the defaults to the winner."""

    names: list[str] = Field(
        description="Hyperparameters that it changes. A choice of another alternative brings its values along."
    )
    gain: float = Field(description="By how much it improves the objective; negative if it makes it worse.")
    low: float = Field(description="Lower end of 80 % of the bootstraps.")
    high: float = Field(description="Upper end of 80 % of the bootstraps.")


class Path(Part):
    """What led from the defaults of the search space to the winner: ablation analysis, on random forests of the trials.

    No configuration on it was trained, except the winner.
    """

    epoch: int = Field(description="Epoch whose values were analyzed.")
    start: float = Field(description="Predicted objective of the defaults.")
    end: float = Field(description="Predicted objective of the winner.")
    steps: list[PathStep] = Field(description="The changes in their order. Their gains add up to the whole difference.")
    spec: dict[str, Any] = Field(description="The spec of an experiment that trains each configuration of the path.")


class TrainedStep(Part):
    """One configuration of a path that was trained, and what its change gained."""

    trial: int = Field(description="Number of the trial.")
    names: list[str] = Field(description="Hyperparameters that differ from the trial before; empty for the first.")
    values: list[float] = Field(description="Best values of the trial and of its runs with fresh seeds that completed.")
    mean: float | None = Field(None, description="Mean of the values; null for none.")
    gain: Interval | None = Field(
        None,
        description="By how much the mean of the values is better than that of the trial before, with a 95 % interval; "
        "null for the first trial, and where one of the two has no value.",
    )


class Finding(Part):
    """What a trial's curves or the search space show, and the figures that this rests on."""

    kind: str = Field(description="What was found.", examples=["overfitting", "at-bound"])
    subject: str = Field("", description="Hyperparameter that it is about; empty for a finding about curves.")
    text: str = Field(description="One sentence that says it.")
    figures: dict[str, float] = Field(description="The figures by name.")


class TrialFindings(Part):
    """What the curves of one trial show."""

    trial: int = Field(description="Number of the trial.")
    findings: list[Finding] = Field(description="The findings, none of which means that nothing is wrong.")


class NextSpec(Part):
    """A spec to try next."""

    changes: list[str] = Field(default_factory=list, description="What it changes, a sentence each.")
    spec: dict[str, Any] | None = Field(
        None, description="The whole spec, which is valid; null if nothing is suggested."
    )


class Insight(Part):
    """Why the winner won, how sure that is, and what to try next."""

    version: int = Field(VERSION, description="Version of this document.")
    metric: str = Field(description="Metric of the objective.")
    choice: Choice = Field(description="The winner, and what it was chosen from.")
    sureness: Sureness = Field(description="How sure the choice is.")
    replication: Replication | None = Field(
        None, description="How the best trials did with fresh seeds; null where they were not trained again."
    )
    importance: Importance = Field(description="The hyperparameters that matter.")
    path: Path | None = Field(
        None,
        description="What led from the defaults to the winner; null for too few trials, or if it has the defaults.",
    )
    trained: list[TrainedStep] = Field(
        default_factory=list,
        description="What each step gained of a path that this experiment trained: its spec names the configuration of "
        "each trial and has all of them trained again with fresh seeds, as the spec of `path` does. Otherwise empty.",
    )
    curves: list[TrialFindings] = Field(
        default_factory=list, description="What the curves show of each of the best trials, the winner first."
    )
    counts: dict[str, int] = Field(default_factory=dict, description="Number of trials with each kind of finding.")
    scores: Scores | None = Field(
        None, description="How well the winner recognizes each class; null where an older version evaluated it."
    )
    warning: str = Field(
        "", description="That the accuracy hides how seldom some classes are recognized; empty where it does not."
    )
    space: list[Finding] = Field(default_factory=list, description="What the results show of the search space.")
    next: NextSpec = Field(NextSpec(), description="What to try next.")
    notes: list[str] = Field(
        default_factory=list,
        description="That the search space was too small for the number of trials, and parts that are missing because "
        "they failed or took too long, and why.",
    )
