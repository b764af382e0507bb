"""Schedule: the learning rate of every batch of a trial, from a scheduler spec (docs/training.md, L8 to L11).

Owns when the rate changes. It must not know any scheduler by name: a spec names its torch scheduler, which runs on a
stand-in optimizer whose rate is copied. So it changes neither the momentum of the real optimizer nor its `step`.
With b finished batches and W batches of warmup:

- b < W: the rate is base * (b + 1) / W, which rises linearly and ends at the base rate;
- b >= W: the scheduler sets the rate. It counts batches or epochs from the end of warmup. If warmup ends within an
  epoch, the epochs that it counts do so too, except for a plateau, which counts only epochs entirely after warmup.

A scheduler that starts below the base rate (one_cycle, triangular, a cycle with its own warmup) starts there after
warmup too.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.optim import SGD, Optimizer

from search_spaces.schedulers import Horizon, SchedulerSpec
from workers.targets import resolve_target


class Schedule:
    """Sets the rate of `optimizer`'s groups: when it is made, and after every batch and epoch.

    `rate` is the rate of the next batch. `mode` is whether larger or smaller values of the objective are better.
    """

    def __init__(
        self,
        spec: SchedulerSpec,
        optimizer: Optimizer,
        batches_per_epoch: int,
        max_epochs: int,
        base_lr: float,
        mode: Literal["min", "max"],
    ) -> None:
        self.rate = base_lr
        self.rate_of_last_batch = base_lr
        self._spec = spec
        self._optimizer = optimizer
        self._base = base_lr
        self._done = 0
        total = max_epochs * batches_per_epoch
        self._warmup = min(round(spec.warmup_epochs * batches_per_epoch), total - 1)
        if spec.warmup_epochs >= max_epochs:
            raise ValueError(f"warmup_epochs must be less than max_epochs (got {spec.warmup_epochs} and {max_epochs})")
        self._horizon = Horizon(
            epochs=(total - self._warmup) / batches_per_epoch, batches=batches_per_epoch, lr=base_lr, mode=mode
        )
        self._last_step = total - self._warmup
        self._stride = batches_per_epoch if spec.interval == "epoch" else 1
        self._stand_in = SGD([torch.nn.Parameter(torch.zeros(0))], lr=base_lr)
        self._stock: Any = None
        if spec.target is not None:
            self._stock = resolve_target(spec.target)(self._stand_in, **spec.arguments(self._horizon))
            self._stand_in.step()  # otherwise torch warns that the scheduler steps before its optimizer
        self._apply()

    def batch_done(self) -> None:
        """A batch was trained: set the rate of the next one."""
        self.rate_of_last_batch = self.rate
        self._done += 1
        after = self._done - self._warmup
        steps = self._stock is not None and not self._spec.monitors
        if steps and 0 < after < self._last_step and after % self._stride == 0:
            self._stock.step()
        self._apply()

    def epoch_done(self, value: float) -> None:
        """An epoch was trained and evaluated; `value` is its objective, which only schedulers that monitor use.

        They ignore epochs that lie in warmup, even in part.
        """
        if self._spec.monitors and self._done - self._horizon.batches >= self._warmup:
            self._stock.step(value)
            self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Everything that an equal schedule needs to resume from here."""
        return {
            "done": self._done,
            "stand_in_rate": self._stand_in.param_groups[0]["lr"],
            "stock": None if self._stock is None else self._stock.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state`, and set the rate of the next batch."""
        self._done = state["done"]
        self._stand_in.param_groups[0]["lr"] = state["stand_in_rate"]
        if self._stock is not None:
            self._stock.load_state_dict(dict(state["stock"]))
        self._apply()

    def _apply(self) -> None:
        rate = self._current()
        self.rate = rate
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def _current(self) -> float:
        if self._done < self._warmup:
            return self._base * (self._done + 1) / self._warmup
        if self._stock is not None:
            return float(self._stand_in.param_groups[0]["lr"])
        return self._base * self._spec.multiplier((self._done - self._warmup) / self._horizon.batches, self._horizon)
