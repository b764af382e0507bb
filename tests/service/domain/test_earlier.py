"""A warm start: which experiments it may name, and what a driver learns of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from service.context import AppContext
from service.domain import experiments
from service.settings import Settings
from service.store.accounts import Team
from tests.support.world import World

pytestmark = pytest.mark.stores(slow=True)
SPACE = {"optimizer": {"kind": "adam", "lr": {"loguniform": [1e-4, 1e-1]}}}
SPEC: dict[str, Any] = {"name": "night", "search_space": SPACE, "searcher": {"kind": "tpe", "num_samples": 10}}


def warm(given: Any, **changes: Any) -> dict[str, Any]:
    return {**SPEC, **changes, "searcher": {**SPEC["searcher"], "warm_start": given}}


def launched(world: World, spec: dict[str, Any]) -> Any:
    """The launch of a new experiment's first driver."""
    return world.launcher.launches[f"exp-{world.started(**spec)}-a1"].earlier


def test_a_driver_gets_the_addresses_of_the_named_experiments_in_their_order(world: World, settings: Settings) -> None:
    ids = [world.ended(done=3, **SPEC) for _ in range(2)]
    expected = [f"{settings.storage_root}/{one}" for one in ids]
    assert launched(world, warm(ids)) == expected
    assert launched(world, warm(ids[::-1])) == expected[::-1]
    assert launched(world, SPEC) is None


def test_project_means_the_newest_ended_experiments_of_the_same_project(world: World, settings: Settings) -> None:
    ended = [world.ended(done=1, **SPEC) for _ in range(11)]
    world.ended(done=1, **{**SPEC, "project": "other"})
    world.submit(**SPEC)
    addresses = launched(world, warm("project"))
    assert addresses == [f"{settings.storage_root}/{one}" for one in ended[:0:-1]]
    assert launched(world, warm("project", project="new")) == []


def test_experiments_that_cannot_be_used_are_reported_together(world: World) -> None:
    good, elsewhere = world.ended(done=1, **SPEC), world.ended(done=1, **{**SPEC, "project": "other"})
    running = world.started(**SPEC)
    for query in ("", "?validate_only=true"):
        answer = world.client.post(
            f"/api/v1/experiments{query}", json=warm([elsewhere, good, "nosuchid", running, "' OR 1=1"])
        )
        assert answer.status_code == 422, answer.text
        errors = {error["field"]: error["rule"] for error in answer.json()["errors"]}
        assert sorted(errors) == [f"searcher.warm_start[{index}]" for index in (0, 2, 3, 4)]
        assert "must be an experiment of project default that has ended or is paused" in str(errors)


def test_experiments_of_another_team_are_not_used_though_the_project_has_the_same_name(
    world: World, settings: Settings, context: AppContext
) -> None:
    own, other = (world.ended(done=1, **SPEC) for _ in range(2))
    with context.database.write() as session:
        session.add(Team(id="speech", name="Speech", created_at=datetime.now(UTC)))
        session.flush()
        experiments.find(session, other).team_id = "speech"
    assert launched(world, warm("project")) == [f"{settings.storage_root}/{own}"]
    answer = world.client.post("/api/v1/experiments", json=warm([own, other]))
    assert [error["field"] for error in answer.json()["errors"]] == ["searcher.warm_start[1]"]


def trained(world: World, *parameters: dict[str, Any], state: str = "COMPLETED", **spec: Any) -> str:
    """An experiment whose trials had these hyperparameters, the later the better."""
    one = world.started(**{**SPEC, **spec})
    value = None if state == "DIVERGED" else 0.5
    lines = [
        world.line(number, state=state, best_value=value and value + number / 100, parameters=given, sample={})
        for number, given in enumerate(parameters)
    ]
    assert world.beat(one, {"phase": "completed", "reason": "done", "trials": lines}).status_code == 200
    return one


def warnings_of(world: World, spec: dict[str, Any]) -> list[str]:
    """Those of the check, which are those of the submission."""
    checked: list[str] = world.client.post("/api/v1/experiments?validate_only=true", json=spec).json()["warnings"]
    submitted: list[str] = world.client.post("/api/v1/experiments", json=spec).json()["warnings"]
    found = [[text for text in texts if "warm_start" in text] for texts in (checked, submitted)]
    assert found[0] == found[1]
    return found[0]


def test_a_warm_start_of_a_project_in_which_nothing_has_ended(world: World) -> None:
    world.started(**SPEC)
    [text] = warnings_of(world, warm("project"))
    assert text.startswith("searcher.warm_start: finds nothing now: no experiment of project default has ended")
    world.ended(done=2, **{**SPEC, "project": "other"})
    assert warnings_of(world, warm("project")) == [text]
    assert warnings_of(world, SPEC) == []


def test_a_warm_start_from_trials_that_all_diverged(world: World) -> None:
    one = trained(world, {"optimizer.lr": 0.01}, state="DIVERGED")
    for given in ("project", [one]):
        [text] = warnings_of(world, warm(given))
        assert text.startswith(f"searcher.warm_start: finds nothing: no trial of {one} has a value")


def test_a_warm_start_from_trials_whose_hyperparameters_do_not_fit(world: World) -> None:
    """The best one counts; that of another metric fits as well, because journals have all of them."""
    one = trained(world, {"optimizer.kind": "adam", "optimizer.lr": 0.01}, {"optimizer.kind": "sgd", "momentum": 0.5})
    for given in ("project", [one]):
        [text] = warnings_of(world, warm(given))
        assert "finds nothing beyond the defaults: of the best trials of" in text
        assert one in text
    loss = {"objective": {"metric": "validation_loss"}}
    other = trained(world, {"optimizer.kind": "adam", "optimizer.lr": 0.01}, **loss)
    assert warnings_of(world, warm([one, other])) == []
    assert warnings_of(world, warm("project")) == []
