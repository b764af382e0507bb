"""Exposition: the metrics in the text format of Prometheus.

Owns the names of the metrics that are found at each scrape, what they mean, and their labels, which have few values:
none is an id or a name that a person chose, except the names of the pools, which administrators choose. What a replica
measures while it works is in `service.adapters.measurements`. It must not know how the findings were made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

from search_spaces.protocol import FINAL_PHASES, Phase
from service.adapters.observations import DatabaseReport
from service.context import AppContext
from service.domain.census import Census, RunningDriver, Waiting
from service.domain.cluster import Cluster
from service.scheduling import pools

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: In seconds. A driver sends a heartbeat every 2 s, and is lost after 60 s, by default.
AGE_BUCKETS = (2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
#: Values by those of the labels.
Samples = dict[tuple[str, ...], float]


@dataclass(frozen=True)
class Findings:
    """What was found within the time of a scrape; None for what was not."""

    database: DatabaseReport | None
    storage_free_bytes: int | None
    mlflow_ok: bool
    storage_ok: bool


def text(context: AppContext, found: Findings) -> bytes:
    """All metrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected([*context.measurements.registry.collect(), *_families(context, found)]))
    return generate_latest(registry)


class _Collected:
    """Metrics that were collected before, without the times at which their counters were created: those would be as
    many series again."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


def _families(context: AppContext, found: Findings) -> Iterator[Metric]:
    yield _gauge("rung_info", "The version of the service.", {(version("rung"),): 1}, "version")
    yield from _reachability(context, found)
    yield from _replica(context)
    cluster = context.cluster_cache.cluster
    if found.database is not None:
        census = found.database.census
        yield from _disks(found, found.database)
        yield from _counts(census)
        yield from _drivers(census)
        if cluster is not None:
            nodes = pools.nodes_of(census.pools)
            yield from _resources({pool: pools.part(cluster, pool, nodes) for pool in nodes}, census.drivers)


def _reachability(context: AppContext, found: Findings) -> Iterator[Metric]:
    parts: Samples = {
        ("database",): found.database is not None and not found.database.is_full,
        ("mlflow",): found.mlflow_ok,
        ("storage",): found.storage_ok,
    }
    ray = context.cluster_cache
    if context.settings.reconcile or ray.cluster or ray.unreachable_reason:  # others contact no Ray
        parts["ray",] = ray.cluster is not None
    yield _gauge("rung_reachable", "Whether this replica can use a part of the installation.", parts, "part")


def _replica(context: AppContext) -> Iterator[Metric]:
    measured = context.measurements
    about = "Whether this replica held the lease of the queue in its newest pass."
    yield _gauge("rung_lease_held", about, {(): measured.lease_held})
    if (age_s := measured.round_age_s) is not None:
        yield _gauge("rung_reconcile_age_seconds", "Time since the last pass that did not fail.", {(): age_s})
    backlogs = measured.backlogs_s()
    about = "Experiments of which MLflow lacks events, of those whose heartbeats this replica received."
    yield _gauge("rung_mlflow_backlog_experiments", about, {(): len(backlogs)})
    about = "For how long MLflow has lacked events, of the experiment that waits longest."
    yield _gauge("rung_mlflow_backlog_seconds", about, {(): max(backlogs, default=0)})


def _disks(found: Findings, database: DatabaseReport) -> Iterator[Metric]:
    free = {("database",): database.free_bytes, ("storage",): found.storage_free_bytes}
    known: Samples = {disk: count for disk, count in free.items() if count is not None}
    yield _gauge("rung_disk_free_bytes", "Free space of a disk; absent where it is not known.", known, "disk")
    yield _gauge("rung_database_bytes", "Size of the database.", {(): database.size_bytes})


def _counts(census: Census) -> Iterator[Metric]:
    experiments: Samples = {(state.value,): count for state, count in census.experiments.items()}
    yield _gauge("rung_experiments", "Experiments by state.", experiments, "state")
    waiting: Samples = dict.fromkeys(((pool, kind.value) for pool in census.pools for kind in Waiting), 0)
    waiting |= {(pool, kind.value): count for (pool, kind), count in census.waiting.items()}
    yield _gauge("rung_queue", "Queued experiments by what they wait for.", waiting, "pool", "waiting_for")
    trials: Samples = {(state.value,): count for state, count in census.trials.items()}
    yield _gauge("rung_trials", "Trials of the experiments that have a driver, by state.", trials, "state")
    if census.lease_left_s is not None:
        about = "Time until the lease of the queue ends; negative while no replica holds it."
        yield _gauge("rung_lease_left_seconds", about, {(): census.lease_left_s})


def _drivers(census: Census) -> Iterator[Metric]:
    drivers = census.drivers
    phases = Counter(driver.phase for driver in drivers)
    counts: Samples = {(phase.value,): phases[phase] for phase in Phase if phase not in FINAL_PHASES}
    yield _gauge("rung_drivers", "Experiments that have a driver, by its phase.", counts, "phase")
    slots: Samples = {(pool,): sum(driver.slots for driver in drivers if driver.pool == pool) for pool in census.pools}
    yield _gauge("rung_slots_held", "Slots of the experiments that have a driver.", slots, "pool")
    ages = [driver.heartbeat_age_s for driver in drivers if driver.heartbeat_age_s is not None]
    about = "Age of the newest heartbeat of the driver that has been silent for longest."
    yield _gauge("rung_heartbeat_oldest_age_seconds", about, {(): max(ages, default=0)})
    family = HistogramMetricFamily("rung_heartbeat_age_seconds", "Ages of all drivers' newest heartbeats, now.")
    family.add_metric([], _cumulated(ages), sum(ages))
    yield family


def _resources(parts: Mapping[str, Cluster], drivers: tuple[RunningDriver, ...]) -> Iterator[Metric]:
    """`parts` are what each pool has of the cluster."""
    counts: Samples = {(pool,): len(part.nodes) for pool, part in parts.items()}
    yield _gauge("rung_cluster_nodes", "Living nodes of the Ray cluster.", counts, "pool")
    cpus, gpus = Samples(), Samples()
    for pool, part in parts.items():
        own, default = [driver for driver in drivers if driver.pool == pool], part.default_gpus_per_trial
        held_gpus = sum(one.slots * default if one.gpus is None else one.gpus for one in own)
        for samples, total, held in ((cpus, part.cpus, sum(one.cpus for one in own)), (gpus, part.gpus, held_gpus)):
            samples[pool, "held"], samples[pool, "free"] = held, max(0.0, total - held)
    for name, samples in (("cpus", cpus), ("gpus", gpus)):
        about = f"{name[:-1].upper()}s of the cluster that slots hold, and that are free for more."
        yield _gauge(f"rung_cluster_{name}", about, samples, "pool", "use")


def _cumulated(ages: list[float]) -> list[tuple[str, float]]:
    bounds = (*AGE_BUCKETS, float("inf"))
    counts = Counter(min(bound for bound in bounds if age <= bound) for age in ages)
    totals = accumulate(counts[bound] for bound in bounds)
    return [("+Inf" if bound == bounds[-1] else str(bound), total) for bound, total in zip(bounds, totals, strict=True)]


def _gauge(name: str, about: str, samples: Samples, *labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family
