"""Scores: how well the winner recognizes each class, on the validation and on the test images.

The workers measure it, and the service shows it. Owns when an accuracy hides that classes are seldom recognized. It
must not know how it is measured.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from search_spaces.phrases import counted, listed, quoted

HIDING = 0.1  # of the accuracy above the balanced accuracy: it comes from a few large classes
MOST_NAMED = 5  # classes in one sentence
#: More classes than this have no confusion matrix: nobody can read it.
MOST_CLASSES = 100


class SplitScores(BaseModel):
    """Shares in [0, 1] on the images of one split. Ignores unknown fields: newer workers may write more."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    images: int = Field(description="Number of images.")
    accuracy: float = Field(description="Share of the images that are right.")
    balanced_accuracy: float = Field(description="Mean over classes of the share of their images that are right.")
    macro_f1: float = Field(description="Mean over classes of F1, the harmonic mean of recall and precision.")
    top5_accuracy: float | None = Field(
        None,
        description="Share of the images whose class is among the five likeliest; null with five classes or fewer.",
    )
    calibration_error: float | None = Field(
        description="Expected calibration error: by how much the confidence in a prediction differs from the share "
        "that is right, in 15 bins; null where it is not finite."
    )
    recall: list[float | None] = Field(
        description="For each class the share of its images that are right; null without images."
    )
    confusion: list[list[int]] | None = Field(
        None,
        description="Number of images by true class (row) and predicted class (column); null with more than "
        f"{MOST_CLASSES} classes.",
    )


class Scores(BaseModel):
    """The scores of the weights that were kept of a trial."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    trial: int = Field(description="Number of the trial.")
    classes: list[str] = Field(description="Names of the classes, in the order of their labels.")
    validation: SplitScores = Field(description="On the validation images, which chose the weights.")
    test: SplitScores = Field(description="On the test images.")

    def warning(self) -> str:
        """That the accuracy hides how seldom some classes are recognized; empty where it does not."""
        split = self.validation if hides(self.validation.accuracy, self.validation.balanced_accuracy) else self.test
        if not hides(split.accuracy, split.balanced_accuracy):
            return ""
        known = [(share, name) for share, name in zip(split.recall, self.classes, strict=False) if share is not None]
        worst = [f"{quoted(name)} {share:.2f}" for share, name in sorted(known) if share < split.accuracy - HIDING]
        where = "validation" if split is self.validation else "test"
        return (
            f"{hidden(where, split.accuracy, split.balanced_accuracy)}: "
            f"{counted(len(worst), 'class is', 'classes are')} seldom recognized (recall: {listed(worst, MOST_NAMED)})"
        )


def hides(accuracy: float, balanced_accuracy: float | None) -> bool:
    """Whether an accuracy looks much better than classes are recognized on average."""
    return balanced_accuracy is not None and accuracy - balanced_accuracy >= HIDING


def hidden(split: str, accuracy: float, balanced_accuracy: float | None) -> str:
    """That an accuracy on a split hides how seldom some classes are recognized; empty where it does not."""
    if balanced_accuracy is None or not hides(accuracy, balanced_accuracy):
        return ""
    return f"the {split} accuracy of {accuracy:.2f} hides a balanced accuracy of {balanced_accuracy:.2f}"
