"""Simulation: drivers and trials in simulated time, under any policy.

Owns what happens between two passes of the scheduler: trials end epochs, yield slots that their experiment has lost,
leave an epoch after a grace, and start where a node has room. It must not know how slots are divided.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from service.domain.cluster import Cluster
from service.scheduling.shares import Demand
from tests.benchmarks.fair_share.policies import Policy
from tests.benchmarks.fair_share.workload import Submission

ROUND_S = 60.0  # the service looks every 2 s; a minute changes little and takes a thirtieth of the time
DRIVER_START_S = 20.0  # until its first trial
GRACE_S = 600.0
PARK_S = 60.0
MIN_RUN_S = 600.0
SATURATED = 1.5  # every team wants so many times its share


@dataclass
class _Trial:
    epochs_left: int
    node: int = -1
    since: float = 0.0  # when the epoch in progress began
    step: int = 0  # an event of an earlier step is void


@dataclass
class _Search:
    """An experiment that has not ended."""

    submission: Submission
    waiting: list[_Trial]
    running: list[_Trial] = field(default_factory=list)
    slots: int = 0
    ready_at: float | None = None  # when its driver is up; None: it is queued
    has_slots_since: float | None = None
    over_since: float | None = None
    idle_since: float | None = None
    first_trial_at: float | None = None


@dataclass
class Outcome:
    """What a policy led to, in GPU seconds of the dominant resource, and in seconds of waiting for the first trial.

    `wanted`: by as many trials as there are, at most the GPUs of the cluster, and `used` the part of it that was used.
    `below_share`: waits, and seconds of an epoch, of experiments that came while their team had room in its share.
    """

    policy: str
    wanted: float = 0.0
    used: float = 0.0
    busy: float = 0.0
    useful: float = 0.0
    lost: float = 0.0
    parked: int = 0
    left_epochs: int = 0
    waits: dict[str, list[float]] = field(default_factory=dict)
    below_share: list[tuple[float, float]] = field(default_factory=list)
    saturated_s: float = 0.0
    saturated: Counter[str] = field(default_factory=Counter)
    history: list[tuple[float, dict[str, float]]] = field(default_factory=list)


class Simulation:
    """`run` returns the outcome. A team is hungry while it could use more than it has."""

    def __init__(self, cluster: Cluster, work: Sequence[Submission], policy: Policy, shares: dict[str, float]) -> None:
        """`shares`: the GPUs to which each team is entitled while all want more."""
        self._cluster, self._work, self._policy, self._shares = cluster, work, policy, shares
        self._free_gpus = [[1.0] * int(node.gpus) for node in cluster.nodes]
        self._free_cpus = [node.cpus for node in cluster.nodes]
        self._events: list[tuple[float, int, _Search, _Trial, int]] = []
        self._order = itertools.count()
        self._active: list[_Search] = []
        self._below: set[str] = set()
        self._now = 0.0
        self.outcome = Outcome(policy.name, waits={team: [] for team in shares})

    def run(self, until: float) -> Outcome:
        arriving = iter(self._work)
        following = next(arriving, None)
        while self._now < until:
            end = self._now + ROUND_S
            while following is not None and following.at <= self._now:
                self._arrive(following)
                following = next(arriving, None)
            self._round()
            self._start_trials()
            while self._events and self._events[0][0] <= end:
                at, _, search, trial, step = heapq.heappop(self._events)
                if trial.step == step:
                    self._end_epoch(search, trial, at)
            self._measure(ROUND_S)
            self._now = end
        for search in self._active:  # what still waits has waited at least so long
            if search.first_trial_at is None:
                self.outcome.waits[search.submission.team].append(self._now - search.submission.at)
        return self.outcome

    def _arrive(self, one: Submission) -> None:
        own = [search for search in self._active if search.submission.team == one.team]
        used = sum(max(len(search.running), search.slots) * search.submission.cost for search in own)
        if used + one.cost <= self._shares[one.team] and all(search.first_trial_at is not None for search in own):
            self._below.add(one.name)
        self._active.append(_Search(one, [_Trial(epochs) for epochs in one.epochs]))

    def _round(self) -> None:
        demands = [self._demand(search) for search in self._active]
        shares = self._policy.shares(demands, self._cluster, self._now)
        for search in self._active:
            search.slots = shares[search.submission.name]
            if search.slots and search.ready_at is None:
                search.ready_at = self._now + DRIVER_START_S
            had = search.has_slots_since is not None
            search.has_slots_since = (search.has_slots_since if had else self._now) if search.slots else None
            if not self._policy.reclaims:
                continue
            over = len(search.running) > search.slots
            search.over_since = (search.over_since if search.over_since is not None else self._now) if over else None
            if search.over_since is not None and self._now - search.over_since >= GRACE_S:
                for trial in search.running[search.slots :]:
                    self._leave_epoch(search, trial)
            idle = search.ready_at is not None and not search.slots and not search.running
            search.idle_since = (search.idle_since if search.idle_since is not None else self._now) if idle else None
            if search.idle_since is not None and self._now - search.idle_since >= PARK_S:
                search.ready_at = search.idle_since = None
                self.outcome.parked += 1

    def _demand(self, search: _Search) -> Demand:
        one, since = search.submission, search.has_slots_since
        return Demand(
            one.name,
            one.cpus,
            one.gpus,
            most=len(search.running) + len(search.waiting),
            running=search.ready_at is not None,
            team=one.team,
            person=one.person,
            submitted_at=one.at,
            held=tuple(self._cluster.nodes[trial.node].id for trial in search.running),
            protected=since is not None and self._now - since < MIN_RUN_S,
        )

    def _start_trials(self) -> None:
        for search in self._active:
            if search.ready_at is None or search.ready_at > self._now + ROUND_S:
                continue
            while search.waiting and len(search.running) < search.slots:
                node = self._node_for(search.submission)
                if node is None:
                    break
                trial = search.waiting.pop()
                trial.node = node
                self._use(search.submission, node, -1)
                search.running.append(trial)
                began = max(self._now, search.ready_at)
                if search.first_trial_at is None:
                    search.first_trial_at = began
                    waited = began - search.submission.at
                    self.outcome.waits[search.submission.team].append(waited)
                    if search.submission.name in self._below:
                        self.outcome.below_share.append((waited, search.submission.epoch_s))
                self._begin_epoch(search, trial, began)

    def _begin_epoch(self, search: _Search, trial: _Trial, at: float) -> None:
        trial.since = at
        trial.step += 1
        heapq.heappush(self._events, (at + search.submission.epoch_s, next(self._order), search, trial, trial.step))

    def _end_epoch(self, search: _Search, trial: _Trial, at: float) -> None:
        trial.epochs_left -= 1
        self.outcome.useful += search.submission.epoch_s * search.submission.cost
        if trial.epochs_left and len(search.running) <= search.slots:
            self._begin_epoch(search, trial, at)
            return
        self._yield_slot(search, trial)
        if trial.epochs_left:
            search.waiting.append(trial)
        elif search.waiting and len(search.running) < search.slots:  # its process takes the next trial at once
            following = search.waiting.pop()
            following.node = trial.node
            self._use(search.submission, trial.node, -1)
            search.running.append(following)
            self._begin_epoch(search, following, at)
        elif not search.running and not search.waiting:
            self._active.remove(search)

    def _leave_epoch(self, search: _Search, trial: _Trial) -> None:
        self.outcome.lost += max(0.0, self._now - trial.since) * search.submission.cost
        self.outcome.left_epochs += 1
        trial.step += 1
        self._yield_slot(search, trial)
        search.waiting.append(trial)

    def _yield_slot(self, search: _Search, trial: _Trial) -> None:
        search.running.remove(trial)
        self._use(search.submission, trial.node, 1)

    def _node_for(self, one: Submission) -> int | None:
        """Where Ray would put it: the fullest node with room."""
        fitting = [
            (sum(gpus), node)
            for node, gpus in enumerate(self._free_gpus)
            if self._free_cpus[node] >= one.cpus and self._fits(gpus, one.gpus)
        ]
        return min(fitting)[1] if fitting else None

    @staticmethod
    def _fits(free: list[float], gpus: float) -> bool:
        return max(free) >= gpus if gpus <= 1 else free.count(1.0) >= gpus

    def _use(self, one: Submission, node: int, sign: int) -> None:
        """Take (-1) or return (1) what a trial uses. GPUs are whole or halves here."""
        free = self._free_gpus[node]
        self._free_cpus[node] += sign * one.cpus
        for _ in range(round(one.gpus) if one.gpus >= 1 else 1):
            each = min(one.gpus, 1.0)
            able = [
                (level, index) for index, level in enumerate(free) if (level >= each if sign < 0 else level <= 1 - each)
            ]
            free[min(able)[1] if sign < 0 else max(able)[1]] += sign * each

    def _measure(self, seconds: float) -> None:
        used: Counter[str] = Counter(dict.fromkeys(self._shares, 0))
        wanted: Counter[str] = Counter()
        for search in self._active:
            one = search.submission
            used[one.team] += len(search.running) * one.cost
            wanted[one.team] += (len(search.running) + len(search.waiting)) * one.cost
        wanted_now = min(sum(wanted.values()), self._cluster.gpus)
        self.outcome.wanted += seconds * wanted_now
        self.outcome.used += seconds * min(used.total(), wanted_now)
        self.outcome.busy += seconds * used.total()
        if all(wanted[team] >= SATURATED * share for team, share in self._shares.items()):
            self.outcome.saturated_s += seconds
            for team, gpus in used.items():
                self.outcome.saturated[team] += gpus * seconds
        if int(self._now / 3600) != int((self._now + seconds) / 3600):
            self.outcome.history.append((self._now, dict(used)))
