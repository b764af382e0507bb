"""The cluster's machines and shares."""

from __future__ import annotations

import httpx
import pytest

from tests.support.world import World

pytestmark = pytest.mark.stores

EXPERIMENTS = "/api/v1/experiments"


def test_the_cluster_shows_its_machines_and_the_slots_of_each_experiment(client: httpx.Client, world: World) -> None:
    one = world.submit(resources={"gpus_per_trial": 0.5, "max_concurrent_trials": 3})
    world.reconciler.reconcile_once()
    cluster = client.get("/api/v1/cluster").json()
    assert cluster["nodes"] == [
        {"name": "small", "cpus": 2, "gpus": 0, "gpu_type": "", "pool": "default", "labels": {}},
        {"name": "large", "cpus": 8, "gpus": 2, "gpu_type": "", "pool": "default", "labels": {}},
    ]
    assert [(share["experiment_id"], share["slots"]) for share in cluster["shares"]] == [(one, 3)]
