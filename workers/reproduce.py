"""Reproduce: runs a recorded trial again, outside Ray, and compares its curve point by point.

`python -m workers.reproduce` reads `{"spec": ..., "curve": {metric: [[epoch, value], ...]}, "data": ...}` from standard
input, where `data` is the experiment's report on its data set, or null. Exit status: 0 reproduced, 1 it differs, 2 it
cannot be run here. On a CPU with the recorded number of threads every point must be equal bit for bit, and also on a
GPU if the trial asked for deterministic algorithms. Otherwise a GPU adds in no fixed order, and several GPUs in another
one, so the objective may differ by a tolerance. It must not know Ray, MLflow or the service.
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
from pydantic import ValidationError

from search_spaces.datasets.report import DataReport
from search_spaces.experiment import TrialSpec
from search_spaces.phrases import counted
from search_spaces.protocol import DIAGNOSTICS, METRICS, finite_or_none
from search_spaces.stored import read_trial_spec
from search_spaces.validation import rule_of
from workers.data.report import difference
from workers.data.report import report as data_report
from workers.data.splits import DataError, load
from workers.failures.classification import sentence
from workers.training.loop import Training

#: metric -> epoch (from 1) -> value; None for one that is not finite.
Curve = Mapping[str, Mapping[int, float | None]]

TIMES = frozenset({"epoch_seconds", "images_per_second"})
COMPARED = tuple(name for name in METRICS + DIAGNOSTICS if name not in TIMES)
GPU_TOLERANCE = 0.02
SHOWN = 20  # rows of the table: a curve that differs everywhere fits a screen
REPRODUCED, DIFFERS, CANNOT = 0, 1, 2
EARLIER_STREAMS = (
    "this trial was recorded by an earlier version, which drew augmentations from one generator: with augmentation "
    "its curve cannot be repeated exactly"
)


@dataclass(frozen=True)
class Difference:
    """A point whose two values differ; None stands for a value that is not finite or is missing."""

    epoch: int
    metric: str
    recorded: float | None
    repeated: float | None

    @property
    def size(self) -> float:
        """The absolute difference; infinite if one of the two values is missing."""
        if self.recorded is None or self.repeated is None:
            return math.inf
        return abs(self.recorded - self.repeated)


@dataclass(frozen=True)
class Comparison:
    """The result of running `epochs` epochs again on `device`: how many points were compared and which differ.

    `note` says why this trial cannot be repeated exactly; empty for a trial that can.
    """

    epochs: int
    points: int
    differences: tuple[Difference, ...]
    objective: str
    device: str
    threads: int
    tolerance: float
    note: str = ""

    @property
    def largest(self) -> Difference | None:
        return max(self.differences, key=lambda difference: difference.size, default=None)

    @property
    def reproduced(self) -> bool:
        """Whether all points are equal; with a tolerance, whether the objective is within it at every epoch."""
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
    data: DataReport | None = None,
) -> Comparison:
    """Run the epochs that `curve` holds again, and compare.

    `tolerance` defaults to `tolerance_of` the trial. `on_epoch` is called after each epoch. `data`: what is known of
    the data that the trial was trained with. Sets torch's number of threads to that of the trial. Raises ValueError
    for a curve that is empty or longer than the trial can be, and DataError if the data are missing or others.
    """
    recorded = {name: curve[name] for name in COMPARED if curve.get(name)}
    epochs = max((epoch for line in recorded.values() for epoch in line), default=0)
    if epochs == 0:
        raise ValueError("the curve must have at least one epoch (got none)")
    if odd := sorted({epoch for line in recorded.values() for epoch in line if not 1 <= epoch <= spec.max_epochs}):
        rule = f"the epochs of its curve must be from 1 to {spec.max_epochs} (got {odd[-1]})"
        raise ValueError(f"{rule}: its run in MLflow was changed")
    torch.set_num_threads(spec.cpus)
    device = "cuda" if spec.gpus > 0 and torch.cuda.is_available() else "cpu"
    splits = load(spec.dataset, spec.split_seed, data_root, cache_root)
    if data is not None and (changed := difference(data, data_report(spec.dataset, splits))):
        raise DataError(f"the data set {data.name} has changed since the trial: {changed}")
    training = Training(spec, splits, device)
    differences: list[Difference] = []
    for epoch in range(1, epochs + 1):
        metrics = training.run_epoch()
        for name, line in recorded.items():
            if epoch in line:
                found = Difference(epoch, name, line[epoch], finite_or_none(metrics.get(name)))
                if found.recorded != found.repeated:
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
        note=EARLIER_STREAMS if spec.random_streams == 1 and _augments(spec) else "",
    )


def tolerance_of(spec: TrialSpec, device: str) -> float:
    """By how much the objective may differ on this device: 0 if the trial must repeat bit for bit."""
    exact = spec.gpus == 0 or (spec.execution.deterministic and device == "cuda" and spec.gpus <= 1)
    return 0.0 if exact else GPU_TOLERANCE


def report(comparison: Comparison) -> list[str]:
    """The points that differ as a table, and then the result in one sentence."""
    where = f"on the CPU with {counted(comparison.threads, 'thread')}" if comparison.device == "cpu" else "on a GPU"
    lines = []
    if comparison.differences:
        lines.append(f"{'epoch':>5}  {'metric':<22}{'recorded':>24}{'repeated':>24}{'difference':>14}")
        for found in comparison.differences[:SHOWN]:
            values = f"{_figure(found.recorded):>24}{_figure(found.repeated):>24}"
            lines.append(f"{found.epoch:>5}  {found.metric:<22}{values}{found.size:>14.3g}")
        if len(comparison.differences) > SHOWN:
            lines.append(f"... and {len(comparison.differences) - SHOWN} more")
    summary = f"{counted(comparison.epochs, 'epoch')} run again {where}: "
    largest = comparison.largest
    if largest is None:
        summary += f"{counted(comparison.points, 'point is', 'points are')} equal bit for bit"
    else:
        summary += f"{len(comparison.differences)} of {counted(comparison.points, 'point')} differ, "
        summary += f"the most {largest.metric} at epoch {largest.epoch}, by {largest.size:.3g}"
        if comparison.tolerance:
            summary += f"; {comparison.objective} may differ by {comparison.tolerance:g}"
    lines.append(f"{'reproduced' if comparison.reproduced else 'differs'}: {summary}")
    if comparison.note:
        lines.append(comparison.note)
    elif not comparison.reproduced and comparison.device == "cpu":
        lines.append(
            "another processor or another version of torch rounds differently; a value that was changed in MLflow "
            "differs, too"
        )
    return lines


def document(comparison: Comparison) -> dict[str, object]:
    """The comparison as plain JSON. The keys are read by scripts: `again` is the repeated value."""
    return {
        "reproduced": comparison.reproduced,
        "epochs": comparison.epochs,
        "points": comparison.points,
        "device": comparison.device,
        "threads": comparison.threads,
        "tolerance": comparison.tolerance,
        "note": comparison.note,
        "differences": [
            {"epoch": d.epoch, "metric": d.metric, "recorded": d.recorded, "again": d.repeated}
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

    def on_epoch(epoch: int, epochs: int) -> None:
        if sys.stderr.isatty():
            print(f"\repoch {epoch} of {epochs}", end="\n" if epoch == epochs else "", file=sys.stderr, flush=True)

    try:
        given = json.load(sys.stdin)
        spec = read_trial_spec(given["spec"])
        curve = {name: {int(epoch): value for epoch, value in line} for name, line in given["curve"].items()}
        data = DataReport.model_validate(given["data"]) if given.get("data") else None
        found = reproduce(spec, curve, options.data_root, options.cache_root, options.tolerance, on_epoch, data)
    except Exception as error:  # torch and a plugin may raise anything, and Python's own status for it is DIFFERS
        print(f"rung: the trial cannot be run again here: {_reason(error)}", file=sys.stderr)
        return CANNOT
    print(json.dumps(document(found), indent=2) if options.json else "\n".join(report(found)))
    return REPRODUCED if found.reproduced else DIFFERS


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        rules = (f"{'.'.join(map(str, one['loc']))} {rule_of(one)}" for one in error.errors())
        return f"its spec cannot be read by this version: {'; '.join(rules)}"
    return str(error) if isinstance(error, DataError | ValueError) else sentence(error)


def _augments(spec: TrialSpec) -> bool:
    return any(spec.hyperparameters.augmentation.model_dump().values())


def _figure(value: float | None) -> str:
    return "-" if value is None else repr(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
