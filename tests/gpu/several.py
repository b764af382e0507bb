"""Several: one trial that all GPUs train together, against one GPU: images per second, and whether the losses agree."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.gpu.loops import SIZES, spec_of
from workers.data.splits import load
from workers.failures.classification import TrialError
from workers.trial.parallel_training import ParallelTraining

EPOCHS = 3  # the first one is not measured: it allocates memory and chooses kernels
LARGEST_DIFFERENCE = 0.02  # of the training loss in nats, after half-precision sums in another order


def several_row(device: str, log: Callable[[str], None]) -> dict[str, Any]:
    """The trial of the other tables on images of the digits, in exact float32, by 1 and by all GPUs; empty if there is
    one only. On the CPU, 2 processes take the place of the GPUs."""
    count = torch.cuda.device_count() if device == "cuda" else 2
    if count < 2:
        return {}
    spec = spec_of(device, SIZES[device].sharing_batch, "none")
    spec = spec.model_copy(update={"execution": spec.execution.model_copy(update={"precision": "float32"})})
    speeds, losses = [], []
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder), Path(folder) / "cache"
        splits = load(spec.dataset, spec.split_seed, root, cache)
        for processes in (1, count):
            try:
                training = ParallelTraining(spec, splits, root, cache, processes, device)
                metrics = [training.run_epoch() for _ in range(EPOCHS)]
                training.close()
            except TrialError as error:
                return {"processes": processes, "error": str(error)}
            speeds.append(max(one["images_per_second"] for one in metrics[1:]))
            losses.append([one["train_loss"] for one in metrics])
    difference = max(abs(ours - theirs) for ours, theirs in zip(*losses, strict=True))
    times = speeds[1] / speeds[0]
    log(f"{count} GPUs: {speeds[1]:,.0f} images/s, {times:.2f} times those of one; losses differ by {difference:.2g}")
    row = {"processes": count, "images_per_second": speeds[1], "speedup": times}
    return row | {"difference": difference, "agrees": difference <= LARGEST_DIFFERENCE}
