"""An insight, as a driver writes it."""

from __future__ import annotations

from typing import Any

from search_spaces.experiment import ExperimentSpec
from search_spaces.insight import (
    Bar,
    Choice,
    Finding,
    Group,
    Importance,
    Insight,
    Interval,
    NextSpec,
    Sureness,
    TrialFindings,
)
from search_spaces.scores import Scores, SplitScores

#: Of 100 test images of four classes, of which the network knows the largest only.
CONFUSION = [[76, 1, 0, 0], [9, 1, 0, 0], [7, 0, 0, 0], [5, 1, 0, 0]]


def hiding_scores(trial: int = 17) -> Scores:
    """Those of a winner whose accuracy of 0.77 hides a balanced accuracy of 0.27."""
    split = SplitScores(
        images=100,
        accuracy=0.77,
        balanced_accuracy=0.2718,
        macro_f1=0.27,
        calibration_error=0.05,
        recall=[76 / 77, 0.1, 0.0, 0.0],
        confusion=CONFUSION,
    )
    return Scores(trial=trial, classes=["cup", "plate", "knife", "spoon"], validation=split, test=split)


def insight(**changes: Any) -> Insight:
    rate = Bar(name="optimizer.lr", share=0.62, low=0.48, high=0.75, noise=False)
    batch = Bar(name="batch_size", share=0.01, low=0.0, high=0.03, noise=True)
    fields: dict[str, Any] = {
        "metric": "validation_accuracy",
        "choice": Choice(trial=17, value=0.9954, epoch=14, trials=40, parameters={"optimizer.lr": 0.4912}),
        "sureness": Sureness(
            validation_images=216,
            compared=40,
            ties=[3, 5],
            expected=Interval(value=0.989, low=0.981, high=0.996),
            test=Interval(value=0.9944, low=0.98, high=0.999),
            test_images=360,
            overtuned=False,
        ),
        "importance": Importance(epoch=1, groups=[Group(within=None, trials=40, bars=[rate, batch])]),
        "curves": [
            TrialFindings(
                trial=17, findings=[Finding(kind="improving", text="the accuracy still rose", figures={"late": 0.99})]
            )
        ],
        "counts": {"improving": 1, "diverged": 3},
        "space": [
            Finding(kind="at-bound", subject="optimizer.lr", text="the rate is at its bound", figures={"bound": 0.5})
        ],
        "next": NextSpec(
            changes=["optimizer.lr up to 3"], spec=ExperimentSpec(name="first-next").model_dump(mode="json")
        ),
    }
    return Insight(**fields | changes)
