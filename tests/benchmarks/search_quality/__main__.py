"""python -m tests.benchmarks.search_quality: the regret of each method at each budget."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.search_quality import conditional, edge, recorded, targets
from tests.benchmarks.search_quality.conditional import ConditionalTask
from tests.benchmarks.search_quality.lcbench import Task
from tests.benchmarks.search_quality.methods import METHODS, USUAL
from tests.benchmarks.search_quality.simulation import Curves, simulate

DEVELOPMENT_TASKS = ["167168", "189873", "189906", "7593", "167201"]
#: With whose regret at `REFERENCE_BUDGET` trainings the others are compared.
REFERENCE, REFERENCE_BUDGET = "optuna-tpe-hyperband", 20.0
GRID = 0.5  # trainings between two budgets at which it is looked whether a method has reached the reference


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.search_quality", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of LCBench's surrogate, for its tasks")
    own = ", ".join([*recorded.names(), edge.NAME, f"{conditional.PREFIX}0 and so on"])
    parser.add_argument("--tasks", nargs="+", default=DEVELOPMENT_TASKS, help=f"numbers of LCBench's tasks; or {own}")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(10)))
    parser.add_argument("--methods", nargs="+", default=USUAL, choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--workers", type=int, default=4, help="workers of a simulated search")
    parser.add_argument("--budgets", type=float, nargs="+", default=[10, 20, 50], help="in full trainings")
    parser.add_argument("--noise-images", type=int, default=0, help="measure accuracies on so many images; 0: exactly")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the results, which is written after each run")
    parser.add_argument("--also", type=Path, nargs="+", default=[], help="earlier results that the table has too")
    given = parser.parse_args()
    cells = list(product(given.seeds, given.tasks, given.methods))
    arguments = [(given.data, task, seed, method, given) for seed, task, method in cells]
    runs: list[dict[str, Any]] = [run for path in given.also for run in json.loads(path.read_text())["runs"]]
    with ProcessPoolExecutor(given.processes) as pool:
        for run in pool.map(_run, *zip(*arguments, strict=True)) if arguments else ():
            runs.append(run)
            if given.json:
                given.json.write_text(json.dumps({"runs": runs}, indent=1))
    result = summarize(given.data, runs, given.budgets)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1))
    print_table(result, sys.stdout)


def _run(data: Path | None, task: str, seed: int, method: str, given: argparse.Namespace) -> dict[str, Any]:
    found_task = _task(data, task)
    budgets = sorted({*given.budgets, *np.arange(GRID, max(given.budgets) + GRID / 2, GRID).tolist()})
    began = time.process_time()
    found = simulate(METHODS[method](found_task, seed), found_task, seed, given.workers, budgets, given.noise_images)
    spent = time.process_time() - began
    return {
        "task": task,
        "seed": seed,
        "method": method,
        "workers": given.workers,
        "values": found.values,
        "diverged": found.diverged,
        "cpu_s": spent,
    }


def summarize(data: Path | None, runs: list[dict[str, Any]], budgets: list[float]) -> dict[str, Any]:
    """Mean regret and mean rank by method and budget, over the tasks and seeds that all methods have.

    Regret is (y* - y) / (y* - median of random full trainings), with y* the best value that is known of the task.
    `error` is the standard error of the mean regret, `needed` how many full trainings a method needs until its mean
    regret is that of the reference at `REFERENCE_BUDGET`; None if it does not get there.
    """
    best: dict[str, float] = {}
    for run in runs:
        task = run["task"]
        best[task] = max(best.get(task, 0.0), _task(data, task).best, *run["values"].values())
    for run in runs:
        scale = best[run["task"]] - _task(data, run["task"]).median
        run["regret"] = {float(b): (best[run["task"]] - value) / scale for b, value in run["values"].items()}
    methods = list(dict.fromkeys(run["method"] for run in runs))
    grid = sorted(set[float]().union(runs[0]["regret"]).intersection(*(run["regret"] for run in runs)))
    budgets = [budget for budget in budgets if budget in grid]
    of = {(run["task"], run["seed"], run["method"]): run["regret"] for run in runs}
    cells = [
        cell
        for cell in dict.fromkeys((run["task"], run["seed"]) for run in runs)
        if all((*cell, method) in of for method in methods)
    ]
    regrets = {method: {b: [of[*cell, method][b] for cell in cells] for b in grid} for method in methods}
    means = {method: {b: float(np.mean(values)) for b, values in by.items()} for method, by in regrets.items()}
    target = means.get(REFERENCE, {}).get(REFERENCE_BUDGET, -math.inf)
    return {
        "cells": len(cells),
        "mean_regret": {method: {b: by[b] for b in budgets} for method, by in means.items()},
        "error": {method: {b: _error(by[b]) for b in budgets} for method, by in regrets.items()},
        "mean_rank": {method: {b: _mean_rank(regrets, method, b) for b in budgets} for method in methods},
        "needed": {m: next((b for b in grid if by[b] <= target), None) for m, by in means.items()},
        "diverged": {m: float(np.mean([run["diverged"] for run in runs if run["method"] == m])) for m in methods},
        "cpu_s": {m: float(np.mean([run["cpu_s"] for run in runs if run["method"] == m])) for m in methods},
        "runs": runs,
    }


def _error(values: list[float]) -> float:
    """The standard error of a mean; NaN of a single value."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def _mean_rank(regrets: dict[str, dict[float, list[float]]], method: str, budget: float) -> float:
    """1 is the best method in every cell; methods of equal regret share their ranks."""
    values = np.array([by[budget] for by in regrets.values()])
    mine = np.array(regrets[method][budget])
    return float(np.mean((values < mine).sum(axis=0) + ((values == mine).sum(axis=0) + 1) / 2))


def print_table(result: dict[str, Any], out: Any) -> None:
    budgets = list(next(iter(result["mean_regret"].values())))
    header = "".join(f" {f'@{budget:g}':>15} {'rank':>5}" for budget in budgets)
    print(f"{result['cells']} cells", file=out)
    print(f"{'method':24}{header} {'needed':>7} {'diverged':>8} {'CPU s':>6}", file=out)
    for method, regret in sorted(result["mean_regret"].items(), key=lambda item: item[1][budgets[-1]]):
        errors, ranks = result["error"][method], result["mean_rank"][method]
        cells = "".join(f" {f'{regret[b]:.3f} +- {errors[b]:.3f}':>15} {ranks[b]:5.2f}" for b in budgets)
        needed, diverged, spent = (result[name][method] for name in ("needed", "diverged", "cpu_s"))
        more = f" {'-' if needed is None else f'{needed:g}':>7} {diverged:8.2f} {spent:6.1f}"
        print(f"{method:24}{cells}{more}", file=out)
    tasks = {run["task"] for run in result["runs"]}
    for line in targets.lines(result, tasks, DEVELOPMENT_TASKS, REFERENCE, REFERENCE_BUDGET):
        print(line, file=out)


_TASKS: dict[tuple[Path | None, str], Curves] = {}


def _task(data: Path | None, name: str) -> Curves:
    if (data, name) not in _TASKS:
        _TASKS[data, name] = _new_task(data, name)
    return _TASKS[data, name]


def _new_task(data: Path | None, name: str) -> Curves:
    if name in recorded.names():
        return recorded.recorded_task(name)
    if name == edge.NAME:
        return edge.EdgeTask()
    if name.startswith(conditional.PREFIX):
        return ConditionalTask(name)
    if data is None:
        raise SystemExit(f"--data: must be given for LCBench's task {name}")
    return Task(data, name)


if __name__ == "__main__":
    main()
