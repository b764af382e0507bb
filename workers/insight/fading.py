"""Fading: in which epoch a trial's schedule ended its learning, because the rate was almost nothing from then on.

A pure function. It must not know files, nor what is concluded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from search_spaces.schedulers import FAINT, SchedulerSpec


def last_learning_epoch(scheduler: SchedulerSpec, max_epochs: int, epochs: Sequence[Mapping[str, float]]) -> int | None:
    """Number of the epoch (from 1) after which the learning rate stays below FAINT of its base; None where that is
    unknown, or does not happen in a trial of `max_epochs`.

    Where validation decides, `lr` of each epoch says it. Otherwise it follows from the scheduler: `lr` is that of the
    last batch of an epoch, which may be the lowest one of many.
    """
    if not scheduler.monitors:
        fade = scheduler.fade(max_epochs - scheduler.warmup_epochs)
        return math.ceil(scheduler.warmup_epochs + fade.begins) if fade else None
    rates = [epoch.get("lr", math.nan) for epoch in epochs]
    if not rates or any(math.isnan(rate) for rate in rates):
        return None
    return max(number for number, rate in enumerate(rates, 1) if rate >= FAINT * max(rates))
