"""Reproduce: one recorded trial run again, outside Ray, and its curve compared point by point.

`python -m workers.reproduce` reads `{"spec": ..., "curve": {metric: [[epoch, value], ...]}}` from standard
input. Exit status: 0 reproduced, 1 it differs, 2 it cannot be run here. On a CPU with the recorded number of
threads every point must be equal bit for bit, and so on a GPU if the trial asked for deterministic algorithms;
otherwise a GPU adds in no fixed order, and the objective may differ by a tolerance. It must not know Ray, MLflow
or the service.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from search_spaces.experiment import TrialSpec
from search_spaces.protocol import DIAGNOSTICS, METRICS
from workers.data.splits import DataError, load
from workers.training.loop import Training

#: metric -> epoch (from 1) -> value; None for one that is not finite.
Curve = Mapping[str, Mapping[int, float | None]]

TIMES = frozenset({"epoch_seconds", "images_per_second"})
COMPARED = tuple(name for name in METRICS + DIAGNOSTICS if name not in TIMES)
GPU_TOLERANCE = 0.02
SHOWN = 20  # lines of the table
REPRODUCED, DIFFERS, CANNOT = 0, 1, 2


@dataclass(frozen=True)
class Difference:
    """A point that is not the same; None stands for a value that is not finite, or not there."""

    epoch: int
    metric: str
    recorded: float | None
    again: float | None

    @property
    def size(self) -> float:
        """Absolute; infinite where one of the two is missing."""
        if self.recorded is None or self.again is None:
            return math.inf
        return abs(self.recorded - self.again)


@dataclass(frozen=True)
class Comparison:
    """What came of running `epochs` epochs again on `device`: `points` were compared, those that differ are listed."""

    epochs: int
    points: int
    differences: tuple[Difference, ...]
    objective: str
    device: str
    threads: int
    tolerance: float

    @property
    def largest(self) -> Difference | None:
        return max(self.differences, key=lambda difference: difference.size, default=None)

    @property
    def reproduced(self) -> bool:
        """Equal throughout; with a tolerance, the objective within it at every epoch."""
        if not self.differences or not self.tolerance:
            return not self.differences
        return all(found.size <= self.tolerance for found in self.differences if found.metric == self.objective)


def reproduce(
    spec: TrialSpec,
    curve: Curve,
    data_root: Path,
    cache_root: Path,
    tolerance: float | None = None,
    on_epoch: Callable[[int, int], None] = lambda epoch, epochs: None,
) -> Comparison:
    """Run the epochs that `curve` holds again, and compare.

    `tolerance` defaults to `tolerance_of` the trial. `on_epoch` is called after each epoch. Torch's number of
    threads is set to that of the trial. Raises ValueError for an empty curve, DataError for absent data.
    """
    recorded = {name: curve[name] for name in COMPARED if curve.get(name)}
    epochs = max((epoch for line in recorded.values() for epoch in line), default=0)
    if epochs == 0:
        raise ValueError("a curve of one epoch or more required, got none")
    torch.set_num_threads(spec.cpus)
    device = "cuda" if spec.gpus > 0 and torch.cuda.is_available() else "cpu"
    training = Training(spec, load(spec.dataset, spec.split_seed, data_root, cache_root), device)
    differences: list[Difference] = []
    for epoch in range(1, epochs + 1):
        metrics = training.run_epoch()
        for name, line in recorded.items():
            if epoch in line:
                found = Difference(epoch, name, line[epoch], _finite(metrics.get(name)))
                if found.recorded != found.again:
                    differences.append(found)
        on_epoch(epoch, epochs)
    return Comparison(
        epochs=epochs,
        points=sum(len(line) for line in recorded.values()),
        differences=tuple(differences),
        objective=spec.objective.metric,
        device=device,
        threads=spec.cpus,
        tolerance=tolerance_of(spec, device) if tolerance is None else tolerance,
    )


def tolerance_of(spec: TrialSpec, device: str) -> float:
    """By how much the objective may differ on this device: 0 where the trial is repeated bit for bit."""
    exact = spec.gpus == 0 or (spec.execution.deterministic and device == "cuda")
    return 0.0 if exact else GPU_TOLERANCE


def report(comparison: Comparison) -> list[str]:
    """The points that differ, as a table, and the verdict in a sentence."""
    threads = "1 thread" if comparison.threads == 1 else f"{comparison.threads} threads"
    where = f"on the CPU with {threads}" if comparison.device == "cpu" else "on a GPU"
    lines = []
    if comparison.differences:
        lines.append(f"{'epoch':>5}  {'metric':<22}{'recorded':>24}{'again':>24}{'difference':>14}")
        for found in comparison.differences[:SHOWN]:
            values = f"{_figure(found.recorded):>24}{_figure(found.again):>24}"
            lines.append(f"{found.epoch:>5}  {found.metric:<22}{values}{found.size:>14.3g}")
        if len(comparison.differences) > SHOWN:
            lines.append(f"... and {len(comparison.differences) - SHOWN} more")
    said = f"{comparison.epochs} epochs run again {where}: "
    largest = comparison.largest
    if largest is None:
        said += f"all {comparison.points} points are equal bit for bit"
    else:
        said += f"{len(comparison.differences)} of {comparison.points} points differ, "
        said += f"the most {largest.metric} at epoch {largest.epoch}, by {largest.size:.3g}"
        if comparison.tolerance:
            said += f"; {comparison.objective} may differ by {comparison.tolerance:g}"
    lines.append(f"{'reproduced' if comparison.reproduced else 'differs'}: {said}")
    if not comparison.reproduced and comparison.device == "cpu":
        lines.append("another processor, or another version of torch, rounds otherwise")
    return lines


def document(comparison: Comparison) -> dict[str, object]:
    """The comparison as plain JSON."""
    return {
        "reproduced": comparison.reproduced,
        "epochs": comparison.epochs,
        "points": comparison.points,
        "device": comparison.device,
        "threads": comparison.threads,
        "tolerance": comparison.tolerance,
        "differences": [
            {"epoch": d.epoch, "metric": d.metric, "recorded": d.recorded, "again": d.again}
            for d in comparison.differences
        ],
    }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.reproduce")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--cache-root", type=Path, required=True)
    parser.add_argument("--tolerance", type=float)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    given = json.load(sys.stdin)
    spec = TrialSpec.model_validate(given["spec"])
    curve = {name: {int(epoch): value for epoch, value in line} for name, line in given["curve"].items()}

    def on_epoch(epoch: int, epochs: int) -> None:
        if sys.stderr.isatty():
            print(f"\repoch {epoch} of {epochs}", end="\n" if epoch == epochs else "", file=sys.stderr, flush=True)

    try:
        found = reproduce(spec, curve, options.data_root, options.cache_root, options.tolerance, on_epoch)
    except (DataError, ValueError, LookupError, torch.OutOfMemoryError) as error:
        print(f"rung: the trial cannot be run here: {error}", file=sys.stderr)
        return CANNOT
    print(json.dumps(document(found), indent=2) if options.json else "\n".join(report(found)))
    return REPRODUCED if found.reproduced else DIFFERS


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _figure(value: float | None) -> str:
    return "-" if value is None else repr(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
