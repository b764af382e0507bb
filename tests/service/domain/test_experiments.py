"""The state machine obeys its table, and a cluster's size is checked at submission."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.problems import SpecError
from service.contract.errors import ConflictError
from service.contract.states import ACTIVE, DRIVEN, ENDED, INACTIVE, TRANSITIONS, State
from service.domain import experiments
from service.domain.cluster import Cluster, Node
from service.scheduling import fitting
from service.store.models import Experiment

pytestmark = pytest.mark.stores

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def an_experiment(state: State) -> Experiment:
    return Experiment(
        id="k3v9q2mz", state=state, reason="", phase="searching", slots=3, attempt=1, failures=0, revision=4
    )


@pytest.mark.parametrize("before", State)
@pytest.mark.parametrize("after", State)
def test_every_move_is_in_the_table_or_refused(before: State, after: State) -> None:
    experiment = an_experiment(before)
    if after not in TRANSITIONS[before]:
        with pytest.raises(ConflictError, match=f"is {before} and cannot become {after}"):
            experiments.move(experiment, after, NOW)
        assert (experiment.state, experiment.revision) == (before, 4)
        return
    experiments.move(experiment, after, NOW, "because")
    assert (experiment.state, experiment.reason, experiment.revision) == (after, "because", 5)
    assert (experiment.ended_at == NOW) == (after in ENDED)
    assert (experiment.slots == 0) == (after not in DRIVEN)
    assert (experiment.stop_asked_at == NOW) == (after in {State.STOPPING, State.PAUSING})


def test_the_table_is_whole() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {State.COMPLETED, State.CANCELED, State.ERROR} == ENDED
    assert TRANSITIONS[State.DELETING] == frozenset()
    assert {*ACTIVE, *INACTIVE, State.DELETING} == set(State)
    for state in ACTIVE | INACTIVE:
        reachable, frontier = {state}, {state}
        while frontier:
            frontier = {after for one in frontier for after in TRANSITIONS[one]} - reachable
            reachable |= frontier
        assert reachable & ENDED, f"{state} never ends"


def test_gpus_follow_the_cluster() -> None:
    spec = ExperimentSpec(name="x")
    with_gpus = Cluster((Node("a", 4, 1),))
    assert fitting.complete(spec, with_gpus).resources.gpus_per_trial == 1
    assert fitting.complete(spec, Cluster((Node("a", 4),))).resources.gpus_per_trial == 0
    for nobody in (None, Cluster(())):
        assert fitting.complete(spec, nobody).resources.gpus_per_trial is None


@pytest.mark.parametrize(
    ("resources", "field", "rule"),
    [
        ({"gpus_per_trial": 4}, "resources.gpus_per_trial", "at most 2 required: the largest node, big with 8 CPUs"),
        ({"cpus_per_trial": 20}, "resources.cpus_per_trial", "at most 16 required: the largest node, wide with 16"),
        ({"cpus_per_trial": 12, "gpus_per_trial": 1}, "resources", "no node has 12 CPUs and 1 GPUs at once"),
    ],
)
def test_what_no_node_holds_is_refused(resources: dict[str, int], field: str, rule: str) -> None:
    cluster = Cluster((Node("big", 8, 2), Node("wide", 16)))
    spec = ExperimentSpec.model_validate({"name": "x", "resources": {"gpus_per_trial": 0, **resources}})
    with pytest.raises(SpecError) as caught:
        fitting.complete(spec, cluster)
    (problem,) = caught.value.problems
    assert problem.field == field
    assert problem.rule.startswith(rule)
