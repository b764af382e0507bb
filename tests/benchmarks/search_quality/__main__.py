"""python -m tests.benchmarks.search_quality --data DIR: the regret of each method at each budget."""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.search_quality.conditional import PREFIX, ConditionalTask
from tests.benchmarks.search_quality.lcbench import Task
from tests.benchmarks.search_quality.methods import METHODS
from tests.benchmarks.search_quality.simulation import Curves, incumbents

DEVELOPMENT_TASKS = ["167168", "189873", "189906", "7593", "167201"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.search_quality", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of LCBench's surrogate")
    parser.add_argument(
        "--tasks", nargs="+", default=DEVELOPMENT_TASKS, help=f"of LCBench, or {PREFIX}0 and so on (not for Optuna)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--workers", type=int, default=4, help="workers of a simulated search")
    parser.add_argument("--budgets", type=float, nargs="+", default=[10, 20, 50], help="in full trainings")
    parser.add_argument("--noise-images", type=int, default=0, help="measure accuracies on so many images; 0: exactly")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the results")
    given = parser.parse_args()
    if any(task.startswith(PREFIX) for task in given.tasks) and any(one.startswith("optuna") for one in given.methods):
        parser.error(f"--tasks: must be of LCBench for Optuna's methods (got one that begins with {PREFIX})")
    cells = list(product(given.tasks, given.seeds, given.methods))
    arguments = [(given.data, *cell, given.workers, given.budgets, given.noise_images) for cell in cells]
    if given.processes == 1:
        runs = [_run(*each) for each in arguments]
    else:
        with ProcessPoolExecutor(given.processes) as pool:
            runs = list(pool.map(_run, *zip(*arguments, strict=True)))
    result = summarize(given.data, runs)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1))
    print_table(result, runs, sys.stdout)


def _run(
    data: Path, task: str, seed: int, method: str, workers: int, budgets: list[float], noise_images: int
) -> dict[str, Any]:
    found_task = _task(data, task)
    began = time.process_time()
    found = incumbents(METHODS[method](found_task, seed), found_task, seed, workers, budgets, noise_images)
    spent = time.process_time() - began
    return {"task": task, "seed": seed, "method": method, "values": found, "cpu_s": spent}


def summarize(data: Path, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean regret and mean rank by method and budget.

    Regret is (y* - y) / (y* - median of random full trainings), with y* the best value that is known of the task.
    """
    best: dict[str, float] = {}
    for run in runs:
        task = run["task"]
        best[task] = max(best.get(task, 0.0), _task(data, task).best, *run["values"].values())
    for run in runs:
        task = _task(data, run["task"])
        scale = best[task.name] - task.median
        run["regret"] = {budget: (best[task.name] - value) / scale for budget, value in run["values"].items()}
    methods = list(dict.fromkeys(run["method"] for run in runs))
    budgets = list(runs[0]["regret"])
    cells = list(dict.fromkeys((run["task"], run["seed"]) for run in runs))
    of = {(run["task"], run["seed"], run["method"]): run["regret"] for run in runs}
    regrets = {method: {b: [of[*cell, method][b] for cell in cells] for b in budgets} for method in methods}
    ranks: dict[str, dict[float, list[float]]] = {method: {b: [] for b in budgets} for method in methods}
    for budget, (position, _) in product(budgets, enumerate(cells)):
        values = np.array([regrets[method][budget][position] for method in methods])
        for method, value in zip(methods, values, strict=True):
            ranks[method][budget].append(float((values < value).sum() + ((values == value).sum() + 1) / 2))
    return {
        "mean_regret": {m: {b: float(np.mean(v)) for b, v in by.items()} for m, by in regrets.items()},
        "mean_rank": {m: {b: float(np.mean(v)) for b, v in by.items()} for m, by in ranks.items()},
        "runs": runs,
    }


def print_table(result: dict[str, Any], runs: list[dict[str, Any]], out: Any) -> None:
    budgets = list(runs[0]["regret"])
    header = "".join(f" {f'@{budget:g}':>8} {'rank':>5}" for budget in budgets)
    print(f"{'method':24}{header} {'CPU s a run':>12}", file=out)
    for method, regret in sorted(result["mean_regret"].items(), key=lambda item: item[1][budgets[-1]]):
        cells = "".join(f" {regret[b]:8.3f} {result['mean_rank'][method][b]:5.2f}" for b in budgets)
        spent = np.mean([run["cpu_s"] for run in runs if run["method"] == method])
        print(f"{method:24}{cells} {spent:12.1f}", file=out)


_TASKS: dict[tuple[Path, str], Curves] = {}


def _task(data: Path, name: str) -> Curves:
    if (data, name) not in _TASKS:
        _TASKS[data, name] = ConditionalTask(name) if name.startswith(PREFIX) else Task(data, name)
    return _TASKS[data, name]


if __name__ == "__main__":
    main()
