"""Assignment: writes how many slots each running experiment has, and why each queued experiment waits.

Owns what each experiment demands, and which drivers end because their slots are others'; `allocation` divides the
slots. Must be called under the lease. It must not know Ray.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache, partial
from itertools import chain

from pydantic import ValidationError
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from search_spaces.node_requests import SlotRequest
from search_spaces.pool_nodes import PoolNodes
from search_spaces.protocol import ENDED_TRIAL_STATES, Phase, TrialState, attempt_id
from search_spaces.replicates import FIRST_REPLICATE
from search_spaces.resources import slots_of_gpu
from search_spaces.stored import StoredSpec, read_controls
from service.contract.states import DRIVEN, State
from service.domain import attempts, budgets, experiments
from service.domain.cluster import Cluster
from service.domain.retry_policy import RetryPolicy
from service.scheduling import growth, metering, pools, queue, reasons
from service.scheduling.allocation import allocate
from service.scheduling.borrowing import BorrowingMeter
from service.scheduling.cost import Costs
from service.scheduling.driver_places import DriverPlaces
from service.scheduling.metering import Metered
from service.scheduling.placement import Size
from service.scheduling.pools import Terms
from service.scheduling.queue import Waiting
from service.scheduling.reclaim import Holding, ReclaimTimer, Since
from service.scheduling.request_ages import LATE_S, RequestAges
from service.scheduling.shares import Demand, Pool, Share, Why
from service.scheduling.whole_gpus import demand_whole, in_slots
from service.store.models import Experiment, Trial

log = logging.getLogger(__name__)

#: States of trials of the search that a pass counts.
COUNTED = (*ENDED_TRIAL_STATES, TrialState.RUNNING)
#: Why the driver of an experiment without slots ends.
WITHOUT_SLOTS = "it has lost its slots, so its driver ends"
WHY_PARKED = {Why.BUDGET: "its team has spent its budget, so its driver ends"}


@dataclass(frozen=True)
class Limits:
    """Settings. An experiment with a driver is one of `max_drivers`, also while it only delivers to MLflow: its process
    is as large. After `park_s` without a slot, it is asked to end its driver."""

    max_drivers: int
    park_s: float


@dataclass(frozen=True)
class Assigned:
    """`shares` of the queued experiments that may start, and `requests` for slots on nodes that are lacking."""

    shares: Mapping[str, Share]
    requests: Sequence[SlotRequest]


def assign_slots(
    session: Session,
    cluster: Cluster,
    now: datetime,
    retries: RetryPolicy,
    limits: Limits,
    timer: ReclaimTimer,
    meters: Callable[[str], BorrowingMeter],
    trial_nodes: Mapping[str, Sequence[str]],
    ages: RequestAges,
    can_ask: bool = True,
) -> Assigned:
    """Write the new slots of running experiments.

    `meters`: what teams have borrowed of each pool. `trial_nodes`: where the trials of attempts run, as far as it is
    known. `ages`: for how long Ray has been asked for nodes. `can_ask`: whether it could be asked lately.
    """
    driven, terms = queue.lock_driven(session), pools.read(session)
    nodes = {name: one.nodes for name, one in terms.items()}
    candidates = {name: queue.candidates(session, name, now, retries) for name in terms}
    progress = _read_progress(session, [one.id for one in chain(driven, *candidates.values())])
    since = timer.observe([_holding(experiment, progress[experiment.id]) for experiment in driven])
    max_drivers = max(limits.max_drivers, len(driven))  # a lower number stops nothing that runs
    spent = budgets.watch(session, now)
    leaving = frozenset(chain.from_iterable(one.leaving_nodes or () for one in driven))
    excluded = attempts.excluded_nodes(session, chain.from_iterable(candidates.values()), now)
    excluded |= {one.id: one.excluded_nodes for one in driven if one.excluded_nodes}
    seen = _Seen(now, progress, since, trial_nodes, spent, excluded, leaving, limits.park_s, max_drivers)
    least = {name: one.min_drivers for name, one in terms.items()}
    places = DriverPlaces(limits.max_drivers, least, (experiment.pool for experiment in driven))
    shared: dict[str, _Shared] = {}
    for name, one in terms.items():
        own = [experiment for experiment in driven if experiment.pool == name]
        part = pools.part(cluster, name, nodes)
        running = _Running(len(own) + places.free(name), places.kept(name))
        shared[name] = _share(
            session, seen, one, part, running, own, candidates[name], meters(name), partial(ages.age_s, name)
        )
    due = {
        name: [one.id for one in candidates[name] if one.id in result.shares and not _is_backing_off(one, now, retries)]
        for name, result in shared.items()
    }
    entitled = sorted(
        (shared[name].shares[one].turn, name, one)
        for name, found in due.items()
        for one in found
        if shared[name].shares[one].slots
    )
    starting: dict[str, Share] = {}
    for _, name, one_id in entitled:
        if places.free(name):
            places.take(name)
            starting[one_id] = shared[name].shares[one_id]
        else:
            shared[name].refuse(one_id)
    lacking = {name: result.requests(nodes[name], cluster) for name, result in shared.items()}
    requests = growth.bounded({name: growth.merged(some.values()) for name, some in lacking.items()})
    for name, result in shared.items():
        asked = {one: _slot(result.demands[one]) for one in growth.covered(requests[name], lacking[name])}
        ages.observe(name, asked.values() if can_ask else (), pools.part(cluster, name, nodes))
        of_new_node = {
            one: reasons.requested(ages.age_s(name, slot)) if can_ask else reasons.NOT_ASKED
            for one, slot in asked.items()
        }
        queue.explain(session, name, result.waiting(due[name], of_new_node), candidates[name])
    return Assigned(starting, tuple(chain.from_iterable(requests.values())))


@dataclass(frozen=True)
class _Seen:
    """What a pass has read of all pools. `spent`: teams without a budget that is left. `excluded`: nodes that an
    experiment does not use. `leaving`: nodes that end soon, as any driver knows."""

    now: datetime
    progress: Mapping[str, _Progress]
    since: Mapping[str, Since]
    trial_nodes: Mapping[str, Sequence[str]]
    spent: Collection[str]
    excluded: Mapping[str, Collection[str]]
    leaving: frozenset[str]
    park_s: float
    max_drivers: int


@dataclass(frozen=True)
class _Running:
    """How many experiments of a pool may run at once, and how many places are kept for other pools."""

    most: int
    kept: int


@dataclass(frozen=True)
class _Shared:
    """How the slots of one pool were divided, why those without one have none, and for how many slots of each
    experiment nodes are lacking."""

    demands: Mapping[str, Demand]
    shares: Mapping[str, Share]
    whys: dict[str, Why]
    lacking: Mapping[str, int]
    sentence: Callable[[float, float, frozenset[str], Why, str, bool], str]
    unmeasured: Collection[str]  # those that may share GPUs once it is measured
    excluded: Mapping[str, Collection[str]]  # nodes that failed them

    def refuse(self, experiment_id: str) -> None:
        """It has slots, but no driver may start for it."""
        self.whys[experiment_id] = Why.DRIVERS

    def requests(self, nodes: PoolNodes, cluster: Cluster) -> dict[str, SlotRequest]:
        """For the slots for which nodes are lacking, by experiment; `nodes` are those of the pool, `cluster` is all of
        it."""
        return growth.requests(self.lacking, self.demands, nodes, cluster)

    def waiting(self, ids: Iterable[str], of_new_node: Mapping[str, str]) -> dict[str, Waiting]:
        """What those of `ids` wait for that have no slot or no driver; `of_new_node`: the words beside the nodes for
        which Ray is to be asked."""
        found: dict[str, Waiting] = {}
        for one in ids:
            if (why := self.whys.get(one)) is not None:
                size = _size(self.demands[one])
                sentence = self.sentence(*size, why, of_new_node.get(one, ""), one in self.unmeasured)
                sentence += reasons.not_on(len(self.excluded.get(one, ())))
                found[one] = Waiting(why, sentence)
        return found


def _share(
    session: Session,
    seen: _Seen,
    terms: Terms,
    cluster: Cluster,
    running: _Running,
    driven: Sequence[Experiment],
    candidates: Sequence[Experiment],
    meter: BorrowingMeter,
    age_s: Callable[[Size], float],
) -> _Shared:
    """Divide the slots of one pool, whose nodes are `cluster`, and write what its running experiments get."""
    demands: dict[str, Demand] = {}
    whole: dict[str, int] = {}  # slots of a GPU, of those that get whole ones
    unmeasured: set[str] = set()
    for experiment in (*driven, *candidates):
        has_run_s = seen.since[experiment.id].has_slots_s if experiment.state in DRIVEN else None
        protected = has_run_s is not None and experiment.slots > 0 and has_run_s < terms.min_run_s
        try:
            held = seen.trial_nodes.get(attempt_id(experiment.id, experiment.attempt), ())
            excluded = seen.leaving.union(seen.excluded.get(experiment.id, ()))
            demand = _demand(experiment, seen.progress[experiment.id], cluster, excluded)
            demands[experiment.id] = replace(demand, protected=protected, held=tuple(held))
            if experiment.packing is not None and experiment.gpus_per_trial is None and cluster.gpus:
                experiment.gpus_per_trial = demand.gpus  # from now on it waits for a GPU, also while there is none
            if experiment.packing == {} and demand.gpus:
                unmeasured.add(experiment.id)
            if seen.progress[experiment.id].alone and (slots := slots_of_gpu(demand.gpus)) > 1:
                whole[experiment.id] = slots
        except ValidationError as error:
            _skip_unreadable(session, experiment, error, seen.now)
    grants = {
        team: replace(grant, is_spent=team in seen.spent)
        for team, grant in meter.grants(terms.grants, (one.team for one in demands.values())).items()
    }
    wanted = demands | {
        one: demand_whole(demands[one], slots, seen.progress[one].alone, cluster) for one, slots in whole.items()
    }
    pool, wanting = Pool(terms.stop, running.most), list(wanted.values())
    shares = allocate(pool, grants, wanting, cluster)
    late = [one for one, demand in wanted.items() if age_s(_slot(demand)) >= LATE_S]
    lacking = growth.lacking(pool, grants, wanting, shares, cluster, late)
    shares |= {one: in_slots(shares[one], slots) for one, slots in whole.items()}
    passed_s = meter.observe(demands.values(), shares, grants)
    costs = Costs(cluster)
    metered = [_metered(one, seen.progress[one.id], demands[one.id], costs) for one in driven if one.id in demands]
    metering.record(session, metered, passed_s, seen.now)
    sentence = cache(reasons.Sentences(cluster, seen.max_drivers, running.kept).of)
    for experiment in driven:
        if experiment.id in demands:
            since = seen.since[experiment.id]
            if since.idle_s >= seen.park_s and not shares[experiment.id].slots:
                size, why = _size(wanted[experiment.id]), shares[experiment.id].why
                why_parked = f"{WHY_PARKED.get(why, WITHOUT_SLOTS)}; {sentence(*size, why, '', False)}"
                experiments.move(session, experiment, State.PREEMPTING, seen.now, why_parked)
            is_overdue = since.over_s >= terms.preempt_grace_s
            nodes = terms.nodes.of_types(demands[experiment.id].gpu_types)
            _write_share(experiment, shares[experiment.id], nodes, is_overdue)
    whys = {name: share.why for name, share in shares.items() if not share.slots}
    return _Shared(wanted, shares, whys, lacking, sentence, unmeasured, seen.excluded)


def _slot(demand: Demand) -> Size:
    """What is asked for where a node is lacking."""
    return Size.of(demand.cpus, demand.gpus, gpu_types=demand.gpu_types)


def _size(demand: Demand) -> tuple[float, float, frozenset[str]]:
    """What reasons say of a trial."""
    return demand.cpus, demand.gpus, demand.gpu_types


@dataclass
class _Progress:
    """How many trials of the search have ended, slots are held by trials, replicates have not ended, and trials that
    have not ended need a GPU for themselves."""

    done: int = 0
    running: int = 0
    replicates: int = 0
    alone: int = 0


def _write_share(experiment: Experiment, share: Share, nodes: PoolNodes, is_overdue: bool) -> None:
    """`is_overdue`: its trials have been more than its slots for too long."""
    values = {
        "pool_nodes": nodes.model_dump(),
        "slots": share.slots,
        "slot_nodes": slot_nodes(experiment, share),
        "waits_for": "" if share.slots or share.why is Why.ENOUGH else share.why.name.lower(),
        "stop_epochs": is_overdue,
    }
    for name, value in values.items():
        if getattr(experiment, name) != value:
            setattr(experiment, name, value)


def slot_nodes(experiment: Experiment, share: Share) -> dict[str, int] | None:
    """The number of its slots by node; None where Ray chooses the nodes."""
    return dict(Counter(share.nodes)) if experiment.placement else None


def _holding(experiment: Experiment, progress: _Progress) -> Holding:
    searches = experiment.state == State.RUNNING and experiment.phase == Phase.SEARCHING
    return Holding(experiment.id, experiment.attempt, experiment.slots, progress.running, searches)


def _metered(experiment: Experiment, progress: _Progress, demand: Demand, costs: Costs) -> Metered:
    """What it held since the last pass. While its driver starts, its rows are those of the driver before."""
    trials = 0 if experiment.phase == Phase.STARTING else progress.running
    cost = costs.of(Size.of(demand.cpus, demand.gpus))
    return Metered(experiment, experiment.slots, trials, cost, demand.cpus, demand.gpus)


def _read_progress(session: Session, ids: list[str]) -> dict[str, _Progress]:
    """What a pass needs to know of the trials of each experiment."""
    found = {experiment_id: _Progress() for experiment_id in ids}
    is_replicate = Trial.trial >= FIRST_REPLICATE
    rows = session.execute(
        select(Trial.experiment_id, Trial.state, is_replicate.label("is_replicate"), Trial.slots, func.count())
        .where(Trial.experiment_id.in_(ids), or_(is_replicate, Trial.state.in_(COUNTED), Trial.slots > 1))
        .group_by(Trial.experiment_id, Trial.state, "is_replicate", Trial.slots)
    )
    for experiment_id, state, replicate, slots, count in rows:
        one, has_ended = found[experiment_id], state in ENDED_TRIAL_STATES
        one.done += count * (has_ended and not replicate)
        one.replicates += count * (replicate and not has_ended)
        one.running += count * slots * (state == TrialState.RUNNING)
        one.alone += count * (slots > 1 and not has_ended)
    return found


def _demand(experiment: Experiment, progress: _Progress, cluster: Cluster, excluded: frozenset[str]) -> Demand:
    """What an experiment demands. Raises ValidationError if this version cannot read it."""
    cpus, gpus = experiment.cpus_per_trial, experiment.gpus_per_trial
    if cpus is None:  # the size was not stored as a number
        resources = StoredSpec(experiment.spec).resources
        cpus, gpus = resources.cpus_per_trial, resources.gpus
    controls = read_controls(experiment.controls)
    # At least one, because the winner is evaluated after all trials have ended; none while only MLflow is waited for.
    left = controls.num_samples - progress.done + progress.replicates
    most = 0 if experiment.phase == Phase.DELIVERING else max(1, left)
    gpus = cluster.default_gpus_per_trial if gpus is None else gpus
    if experiment.packing == {} and gpus and not progress.running:
        most = min(most, 1)  # on that GPU its driver measures how many trials share one
    is_driven = experiment.state in DRIVEN
    return Demand(
        experiment_id=experiment.id,
        cpus=cpus,
        gpus=gpus,
        most=min(most, controls.max_concurrent_trials or most),
        running=is_driven,
        priority=controls.priority,
        excluded=excluded,
        gpu_types=experiment.allowed_gpu_types,
        placement=experiment.placement_rule,
        team=experiment.team_id,
        person=experiment.owner_id or "",
        submitted_at=experiment.created_at.timestamp(),
    )


def _skip_unreadable(session: Session, experiment: Experiment, error: ValidationError, now: datetime) -> None:
    """An unreadable experiment must not block the others. If it has a driver, that keeps its slots."""
    session.refresh(experiment, with_for_update=True)
    if experiment.state == State.QUEUED:
        why = f"this version of Rung cannot read its resources or controls: {error}"
        experiments.move(session, experiment, State.ERROR, now, why)
    elif experiment.state in DRIVEN:
        log.warning("cannot read the resources or controls of experiment %s: %s", experiment.id, error)


def _is_backing_off(experiment: Experiment, now: datetime, retries: RetryPolicy) -> bool:
    """Whether its next attempt is not due yet. A longer wait than possible was written before the clock was set."""
    return experiment.retry_at is not None and timedelta(0) < experiment.retry_at - now <= retries.max_wait
