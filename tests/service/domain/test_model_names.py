"""A warning where the winners of two searches become versions of one registered model."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.world import World

pytestmark = pytest.mark.stores(slow=True)
SPEC = {"searcher": {"kind": "random", "num_samples": 1}}


def about_names(world: World, **spec: Any) -> list[str]:
    """The warnings of a submission, which a check of the same spec gives too."""
    document = {**SPEC, **spec}
    checked = world.client.post("/api/v1/experiments", json=document, params={"validate_only": True}).json()["warnings"]
    found: list[str] = world.show(world.submit(**document))["warnings"]
    assert checked == found
    return found


def test_an_experiment_of_the_same_project_and_name(world: World) -> None:
    assert about_names(world, name="night") == []
    first = world.client.get("/api/v1/experiments").json()["items"][0]["id"]
    (warning,) = about_names(world, name="night")
    assert warning.startswith(f"name: should differ from that of experiment {first} ")
    assert "registered model default.night" in warning
    assert about_names(world, name="day") == []
    assert about_names(world, name="night", project="other") == []


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        (("a", "b.c"), ("a.b", "c"), True),
        (("a.b.c", "d"), ("a", "b.c.d"), True),
        (("a.b", "c"), ("a", "c"), False),
        (("a" * 128, "b"), ("a" * 128, "b"), True),
        (("a" * 128, "b" * 128), ("a" * 128, "b" * 127 + "c"), True),
        (("a" * 128, "b" * 128), ("a" * 128, "b" * 127), True),
        (("a" * 128, "b" * 128), ("a" * 128, "b" * 126), False),
    ],
)
def test_a_dot_in_a_name_may_be_the_one_between_project_and_name(
    world: World, first: tuple[str, str], second: tuple[str, str], equal: bool
) -> None:
    assert about_names(world, project=first[0], name=first[1]) == []
    assert bool(about_names(world, project=second[0], name=second[1])) is equal


def test_an_experiment_that_ended_without_a_winner_has_no_model(world: World) -> None:
    one = world.submit(name="night", **SPEC)
    world.client.post(f"/api/v1/experiments/{one}/cancel").raise_for_status()
    assert world.show(one)["state"] == "CANCELED"
    assert about_names(world, name="night") == []


def test_a_continuation_may_have_the_name_of_its_source(world: World) -> None:
    one = world.ended(done=1, name="night", **SPEC, search_space={"label_smoothing": {"uniform": [0, 0.1]}})
    for name in ("night", "again", "again"):
        continued = world.client.post(f"/api/v1/experiments/{one}/continue", json={"name": name}).json()
        assert (continued["name"], continued["warnings"]) == (name, [])
    assert len(about_names(world, name="again")) == 1
