"""Workload: made-up experiments of three teams, the same for every policy."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from service.domain.cluster import Cluster, Node
from service.scheduling.shares import Grant

DAY_S = 86_400.0
CLUSTER = Cluster(tuple(Node(f"node-{index}", cpus=32, gpus=4, id=f"n{index}") for index in range(2)))
#: Three to two to one of what is not guaranteed; each is guaranteed one GPU.
GRANTS = {"vision": Grant(weight=3, quota=1), "speech": Grant(weight=2, quota=1), "text": Grant(weight=1, quota=1)}
#: GPU hours that a team submits in a day, on average, of the 192 that the cluster has.
GPU_HOURS_A_DAY = {"vision": 95, "speech": 66, "text": 44}
#: Trials of an experiment: one team makes few large experiments of the same work, another many small ones.
TRIALS = {"vision": 40, "speech": 16, "text": 6}
#: GPUs and CPUs of a trial, and how often. One of the last kind takes a quarter of the CPUs: as much as two GPUs.
SIZES = (((1, 4), 0.55), ((0.5, 2), 0.35), ((1, 16), 0.1))


@dataclass(frozen=True)
class Submission:
    """One experiment. `epochs` of each of its trials."""

    name: str
    team: str
    person: str
    at: float
    gpus: float
    cpus: float
    epoch_s: float
    epochs: tuple[int, ...]

    @property
    def cost(self) -> float:
        return cost(self.gpus, self.cpus)


def cost(gpus: float, cpus: float) -> float:
    """The dominant resource of a trial, in GPUs."""
    return max(gpus, cpus * CLUSTER.gpus / CLUSTER.cpus)


def entitled(team: str, gpus: float = CLUSTER.gpus) -> float:
    """The part of a team of so many GPUs while all teams want more than they may have."""
    lent = gpus - sum(grant.quota for grant in GRANTS.values())
    return GRANTS[team].quota + lent * GRANTS[team].weight / sum(grant.weight for grant in GRANTS.values())


def submissions(days: float, seed: int) -> list[Submission]:
    """In the order of time. Teams submit in waves: by day more than by night, in some weeks more than in others."""
    found = [one for team in GRANTS for one in _of_team(team, days, random.Random(f"{seed} {team}"))]
    return sorted(found, key=lambda one: one.at)


def _of_team(team: str, days: float, chance: random.Random) -> Iterator[Submission]:
    at, number = 0.0, 0
    phase = chance.uniform(0, 7)
    while True:
        (gpus, cpus), *_ = chance.choices([size for size, _ in SIZES], [often for _, often in SIZES])
        epoch_s = math.exp(chance.uniform(math.log(20), math.log(900)))
        trials = max(1, round(chance.gauss(1, 0.4) * TRIALS[team]))
        epochs = tuple(chance.choice((1, 1, 1, 3, 3, 9)) for _ in range(trials))  # most are stopped early
        hours = sum(epochs) * epoch_s * cost(gpus, cpus) / 3600
        day = at / DAY_S
        busy = (1 + 0.8 * math.sin(2 * math.pi * day)) * (1 + 0.5 * math.sin(2 * math.pi * (day + phase) / 7))
        at += chance.expovariate(1) * hours / GPU_HOURS_A_DAY[team] / max(busy, 0.1) * DAY_S
        if at >= days * DAY_S:
            return
        yield Submission(f"{team}-{number:05d}", team, f"{team}-{chance.randrange(3)}", at, gpus, cpus, epoch_s, epochs)
        number += 1
