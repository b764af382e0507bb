"""Experiments that this version cannot read completely, as after a rollback: they are shown with what can be read, and
the others are not affected.
"""

from __future__ import annotations

from typing import Any

import pytest

from service.context import AppContext
from service.store.models import Experiment
from tests.support.world import World


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        ({"objective": {"metric": "f1"}}, {"metric": "f1", "mode": "max"}),
        ({"objective": {"metric": "latency", "mode": "min"}}, {"metric": "latency", "mode": "min"}),
        ({"objective": [1]}, {"metric": "validation_accuracy", "mode": "max"}),
        ({"labels": 1}, {"labels": []}),
        ({"resources": {"cpus_per_trial": 1000, "gpus_per_trial": 0.25}}, {}),
        ({"searcher": {"kind": "hyperband"}}, {}),
        ({"dataset": {"name": "imagenet"}}, {}),
    ],
)
def test_a_spec_of_a_later_version_is_listed_shown_and_heard_with_what_can_be_read(
    world: World, context: AppContext, part: dict[str, Any], shown: dict[str, Any]
) -> None:
    one, other = world.started(), world.submit()
    with context.database.write() as session:
        row = session.get_one(Experiment, one)
        row.spec = row.spec | part
        row.controls = row.controls | {"later": 1}
    lines = [world.line(n, best_value=value) for n, value in enumerate((0.5, 0.7))]
    answer = world.beat(one, {"phase": "searching", "trials": lines})
    assert answer.status_code == 200, answer.text
    listed = world.client.get("/api/v1/experiments").json()["items"]
    assert [item["id"] for item in listed] == [other, one]
    view = world.show(one)
    assert {name: view[name] for name in shown} == {name: listed[1][name] for name in shown} == shown
    assert view["best"]["value"] == (0.5 if shown.get("mode") == "min" else 0.7)
    assert part.items() <= view["spec"].items()
    (share, _) = world.client.get("/api/v1/cluster").json()["shares"]
    assert share["cpus_per_trial"] == part.get("resources", {}).get("cpus_per_trial", 1)
    assert world.post(one, "pause").json()["state"] == "PAUSING"
    assert world.beat(one, {"phase": "paused"}).status_code == 200


def test_a_driver_whose_controls_cannot_be_read_keeps_those_that_it_has(world: World, context: AppContext) -> None:
    one = world.started()
    with context.database.write() as session:
        row = session.get_one(Experiment, one)
        row.controls = row.controls | {"priority": "urgent"}
    answer = world.beat(one, {"phase": "searching"})
    assert (answer.status_code, answer.json()["controls"]) == (200, None)
