"""The size of the cluster decides what a trial gets, and which trials are refused."""

from __future__ import annotations

import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.problems import SpecError
from service.domain.cluster import Cluster, Node
from service.scheduling import fitting


def test_the_default_number_of_gpus_follows_the_cluster() -> None:
    spec = ExperimentSpec(name="x")
    with_gpus = Cluster((Node("a", 4, 1),))
    assert fitting.complete(spec, with_gpus).resources.gpus_per_trial == 1
    assert fitting.complete(spec, Cluster((Node("a", 4),))).resources.gpus_per_trial == 0
    for nobody in (None, Cluster(())):
        assert fitting.complete(spec, nobody).resources.gpus_per_trial is None


@pytest.mark.parametrize(
    ("resources", "field", "rule"),
    [
        ({"gpus_per_trial": 4}, "resources.gpus_per_trial", "must be at most 2: the largest node, big with 8 CPUs"),
        ({"cpus_per_trial": 20}, "resources.cpus_per_trial", "must be at most 16: the largest node, wide with 16"),
        ({"cpus_per_trial": 12, "gpus_per_trial": 1}, "resources", "no node has 12 CPUs and 1 GPUs at once"),
    ],
)
def test_a_trial_that_fits_on_no_node_is_refused(resources: dict[str, int], field: str, rule: str) -> None:
    cluster = Cluster((Node("big", 8, 2), Node("wide", 16)))
    spec = ExperimentSpec.model_validate({"name": "x", "resources": {"gpus_per_trial": 0, **resources}})
    with pytest.raises(SpecError) as caught:
        fitting.complete(spec, cluster)
    (problem,) = caught.value.problems
    assert problem.field == field
    assert problem.rule.startswith(rule)
