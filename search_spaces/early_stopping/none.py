"""No early stopping: every trial trains for `max_epochs` epochs unless it diverges or fails."""

from __future__ import annotations

from typing import Literal

from search_spaces.early_stopping.base import EarlyStoppingSpec


class NoEarlyStopping(EarlyStoppingSpec):
    """Every trial trains for all of its epochs."""

    kind: Literal["none"] = "none"
