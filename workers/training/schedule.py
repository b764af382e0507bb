"""Schedule: the learning rate of every batch of a trial, from a scheduler spec (lecture L8 to L11).

Owns when a rate changes. It must not know any scheduler by name: stock torch schedulers are named by
their spec and run on a stand-in optimizer, whose rate is copied; so they touch neither the real
optimizer's momentum nor its `step`. With b the batches finished so far and W those of warmup:

- b < W: the rate is base * (b + 1) / W, a straight line from zero that ends at the base rate;
- b >= W: what the scheduler says, which counts batches or epochs from the end of warmup. Where warmup ends within
  an epoch, so do the epochs that it counts; but a plateau is told only of epochs that lie after warmup as a whole.

A scheduler that starts below the base (one_cycle, triangular, a cycle with its own warmup) starts there
after warmup too.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.optim import SGD, Optimizer

from search_spaces.schedulers import Horizon, SchedulerSpec
from workers.targets import resolve_target


class Schedule:
    """Sets the rate of `optimizer`'s groups: at once for the first batch, then after every batch and epoch.

    `rate` is the rate of the next batch. `epoch_done` takes the monitored validation value of the epoch;
    schedulers that do not monitor ignore it.
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
            self._stand_in.step()  # a stock scheduler warns when it steps before its optimizer ever did
        self._apply()

    def batch_done(self) -> None:
        """One more batch trained."""
        self.rate_of_last_batch = self.rate
        self._done += 1
        after = self._done - self._warmup
        steps = self._stock is not None and not self._spec.monitors
        if steps and 0 < after < self._last_step and after % self._stride == 0:
            self._stock.step()
        self._apply()

    def epoch_done(self, value: float) -> None:
        """One more epoch trained and evaluated to `value`. Epochs that lie in warmup, or partly, do not count."""
        if self._spec.monitors and self._done - self._horizon.batches >= self._warmup:
            self._stock.step(value)
            self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later `load_state_dict` of an equal schedule needs to resume."""
        return {
            "done": self._done,
            "stand_in_rate": self._stand_in.param_groups[0]["lr"],
            "stock": None if self._stock is None else self._stock.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume where `state` was taken; the optimizer's groups get the rate of the next batch."""
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
