"""python -m tests.benchmarks.fair_share: the table and the picture of docs/teams.md."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

from tests.benchmarks.fair_share.policies import FIRST_COME, FORMER, fair
from tests.benchmarks.fair_share.simulation import Outcome, Simulation
from tests.benchmarks.fair_share.workload import CLUSTER, DAY_S, GRANTS, entitled, submissions

COLORS = {"vision": "#4477aa", "speech": "#ee6677", "text": "#228833"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.fair_share", description=__doc__)
    parser.add_argument("--days", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--picture", type=Path, help="file for the picture, such as docs/fair-share.png")
    given = parser.parse_args()
    outcomes = []
    for policy in (FIRST_COME, FORMER, fair(GRANTS)):
        began = time.process_time()
        work = submissions(given.days, given.seed)
        outcomes.append(Simulation(CLUSTER, work, policy, {t: entitled(t) for t in GRANTS}).run(given.days * DAY_S))
        print(f"{policy.name}: {len(work)} experiments, {time.process_time() - began:.0f} s of CPU time")
    print(table(outcomes))
    if given.picture:
        draw(outcomes, given.picture)


def table(outcomes: list[Outcome]) -> str:
    """One row for each policy, as Markdown."""
    teams = list(GRANTS)
    heads = ["policy", "used of what was wanted", *(f"wait of {team}: median, worst" for team in teams)]
    heads += [f"share of {team}" for team in teams]
    heads += ["lost to reclaim", "parked"]
    lines = [" | ".join(heads), " | ".join("---" for _ in heads)]
    for one in outcomes:
        cells = [one.policy, f"{one.used / one.wanted:.1%}"]
        cells += [f"{_duration(median(one.waits[team]))}, {_duration(max(one.waits[team]))}" for team in teams]
        cells += [f"{share:.1%} of {due(team, one):.1%}" for team, share in shares(one).items()]
        cells += [f"{one.lost / one.busy:.2%}", str(one.parked)]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def shares(one: Outcome) -> dict[str, float]:
    """Of the GPUs that were used, the part of each team, while all wanted more than theirs."""
    total = sum(one.saturated.values()) or 1.0
    return {team: one.saturated[team] / total for team in GRANTS}


def due(team: str, one: Outcome) -> float:
    """The part that is the team's then. GPUs and CPUs of one node together may count as more than its GPUs."""
    gpus = sum(one.saturated.values()) / one.saturated_s if one.saturated_s else 1.0
    return entitled(team, gpus) / gpus


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def draw(outcomes: list[Outcome], path: Path) -> None:
    """The GPUs of each team by day, and how long their experiments waited, for each policy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    grid = figure.subplots(len(outcomes), 2, width_ratios=(2.2, 1), sharex="col")
    for row, one in zip(grid, outcomes, strict=True):
        over_time, waits = row
        days = [at / DAY_S for at, _ in one.history]
        for team, color in COLORS.items():
            used = [gpus[team] for _, gpus in one.history]
            means = [sum(used[max(0, i - 11) : i + 12]) / len(used[max(0, i - 11) : i + 12]) for i in range(len(used))]
            over_time.plot(days, means, color=color, label=team)
            over_time.axhline(entitled(team), color=color, linestyle=":", linewidth=1)
            waited = sorted(max(seconds, 1.0) / 60 for seconds in one.waits[team])
            waits.plot(waited, [(index + 1) / len(waited) for index in range(len(waited))], color=color)
        over_time.set(ylabel="GPUs, mean of a day", ylim=(0, CLUSTER.gpus), title=one.policy)
        waits.set(xscale="log", ylim=(0, 1), ylabel="part of the experiments")
        waits.grid(alpha=0.3)
    grid[0][0].legend(loc="upper right", ncols=3)
    grid[-1][0].set(xlabel="day (dotted: the share while all teams want more)")
    grid[-1][1].set(xlabel="wait for the first trial, in minutes")
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
