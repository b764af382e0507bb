"""Curves: what the curves of a trial show, each finding with the figures that it rests on.

Pure functions over the metrics of each epoch. Owns the limits at which something is called by its name. It must not
know files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from search_spaces.insight import Finding
from search_spaces.phrases import counted
from search_spaces.protocol import TrialState
from search_spaces.schedulers import FAINT

FEWEST_EPOCHS = 5  # with fewer, a curve shows nothing
LOSS_RISE = 0.1  # of the validation loss above its lowest value: overfitting
GAP = 0.02  # between training and validation accuracy: less is no overfitting
LOW_TRAINING = 0.95  # training accuracy: less is underfitting where there is no gap
GAIN = 0.005  # of the accuracy, or a hundredth of the loss, in the last fifth: still improving
DROP = 0.05  # of the validation accuracy below its best so far: unstable
DROPS = 0.2  # share of the epochs with such a drop
LEARNED = 0.05  # of the way from the accuracy of guessing to 1: less is nothing
ENDS_LOW = frozenset({"cosine", "one_cycle", "polynomial"})  # schedules whose curves rise at their end by design

Curve = Sequence[Mapping[str, float]]


def findings(
    epochs: Curve,
    state: TrialState,
    scheduler: str = "",
    classes: int | None = None,
    last_learning_epoch: int | None = None,
) -> list[Finding]:
    """What the metrics of each epoch of a trial show. `last_learning_epoch` is the one after which the learning rate
    stays almost nothing, None for none: then no further epoch would teach anything."""
    if state is TrialState.DIVERGED:  # in float16, steps that are not finite are skipped, and mean nothing
        return [_diverged(epochs)]
    if len(epochs) < FEWEST_EPOCHS:
        return []
    faded = _faded(epochs, last_learning_epoch)
    if classes and (stuck := _stuck(epochs, classes)):
        return [stuck, faded] if faded else [stuck]
    found = [_unstable(epochs), _overfitting(epochs), faded]
    if state is TrialState.COMPLETED:  # one that was stopped early had no time
        found.append(_underfitting(epochs, longer=not faded))
        if scheduler not in ENDS_LOW and not faded:
            found.append(_improving(epochs))
    return [one for one in found if one]


def _faded(epochs: Curve, last: int | None) -> Finding | None:
    """A schedule that usually ends near 0, as cosine does, is that low only in its last few epochs."""
    if last is None or len(epochs) - last < max(1, len(epochs) // 5):
        return None
    text = (
        f"the schedule ended learning at epoch {last}: in the {counted(len(epochs) - last, 'epoch')} after it, the "
        f"learning rate was less than {FAINT:g} of its base, and more epochs would not help; use a schedule that "
        "follows max_epochs, such as cosine, or one that reduces the rate less"
    )
    return Finding(kind="faded", text=text, figures={"epoch": last, "epochs": len(epochs)})


def _diverged(epochs: Curve) -> Finding:
    at = next((number for number, epoch in enumerate(epochs, 1) if epoch.get("nonfinite_steps", 0) > 0), len(epochs))
    figures = {"epoch": at, "lr": epochs[at - 1].get("lr", math.nan) if epochs else math.nan}
    rate = f"a learning rate of {figures['lr']:.3g}"
    text = f"the loss or a gradient was not finite in epoch {at}, at {rate}: that is probably too high"
    return Finding(kind="diverged", text=text, figures=_finite(figures))


def _stuck(epochs: Curve, classes: int) -> Finding | None:
    best = max(epoch["validation_accuracy"] for epoch in epochs)
    if best > 1 / classes + LEARNED * (1 - 1 / classes):
        return None
    text = (
        f"the accuracy never exceeded {best:.3f}, and guessing gives {1 / classes:.3f}: the network learned nothing, "
        "often because the learning rate is too high or too low"
    )
    return Finding(kind="stuck", text=text, figures=_finite({"best": best, "chance": 1 / classes}))


def _unstable(epochs: Curve) -> Finding | None:
    best, drops = 0.0, []
    for epoch in epochs:
        drops.append(best - epoch["validation_accuracy"])
        best = max(best, epoch["validation_accuracy"])
    large = [drop for drop in drops if drop > DROP]
    if len(large) < max(2, DROPS * len(epochs)):
        return None
    text = (
        f"the validation accuracy was more than {DROP:g} below its best so far in {len(large)} of {len(epochs)} "
        f"epochs, by up to {max(large):.3f}: a lower learning rate or a larger batch size is steadier"
    )
    figures = {"epochs": len(epochs), "drops": len(large), "largest": max(large)}
    return Finding(kind="unstable", text=text, figures=_finite(figures))


def _overfitting(epochs: Curve) -> Finding | None:
    losses = [epoch["validation_loss"] for epoch in epochs]
    lowest = min(range(len(losses)), key=losses.__getitem__)
    last = epochs[-1]
    risen = losses[-1] > (1 + LOSS_RISE) * losses[lowest]
    if not risen or lowest >= len(losses) - 2 or last["generalization_gap"] < GAP:
        return None
    text = (
        f"the validation loss rose from {losses[lowest]:.3g} at epoch {lowest + 1} to {losses[-1]:.3g}, and training "
        f"accuracy is {last['generalization_gap']:.3f} above validation accuracy: more augmentation, weight decay or "
        "dropout may help"
    )
    figures = {
        "lowest_loss": losses[lowest],
        "lowest_epoch": lowest + 1,
        "last_loss": losses[-1],
        "generalization_gap": last["generalization_gap"],
    }
    return Finding(kind="overfitting", text=text, figures=_finite(figures))


def _underfitting(epochs: Curve, longer: bool) -> Finding | None:
    last = epochs[-1]
    training = last["validation_accuracy"] + last["generalization_gap"]
    if last["generalization_gap"] >= GAP or training >= LOW_TRAINING:
        return None
    remedies = "a larger network, less regularization or more epochs" if longer else "a schedule that ends later"
    text = (
        f"training accuracy is only {training:.3f}, no more than {GAP:g} above validation accuracy "
        f"({last['validation_accuracy']:.3f}): {remedies} may help"
    )
    figures = {"train_accuracy": training, "validation_accuracy": last["validation_accuracy"]}
    return Finding(kind="underfitting", text=text, figures=_finite(figures))


def _improving(epochs: Curve) -> Finding | None:
    """The mean of the last fifth of the epochs against that of the fifth before it."""
    size = max(1, len(epochs) // 5)
    accuracies = [epoch["validation_accuracy"] for epoch in epochs]
    late, before = _mean(accuracies[-size:]), _mean(accuracies[-2 * size : -size])
    if late - before < GAIN or max(accuracies) != max(accuracies[-size:]):
        return None
    text = (
        f"the validation accuracy still rose at the end, from {before:.3f} to {late:.3f} on average over the last two "
        f"times {size} of {len(epochs)} epochs: more epochs may help"
    )
    return Finding(kind="improving", text=text, figures=_finite({"before": before, "late": late, "epochs": size}))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    """JSON has no number for a value that is not finite."""
    return {name: value for name, value in figures.items() if math.isfinite(value)}
