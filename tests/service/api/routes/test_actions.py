"""Requests that change an experiment: revisions, If-Match, bad patches, and the documented examples."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.support.world import World

pytestmark = pytest.mark.stores
TEN = {"searcher": {"kind": "random", "num_samples": 10}}


def url(experiment_id: str, *more: object) -> str:
    return "/".join(["/api/v1/experiments", experiment_id, *map(str, more)])


def test_changes_increase_the_revision_and_progress_does_not(world: World) -> None:
    one = world.started()
    tags = [world.client.get(url(one)).headers["etag"]]
    world.beat(one, {"phase": "searching", "trials": [world.line(0)]})
    assert world.client.get(url(one)).headers["etag"] == tags[0]
    for change in (
        lambda: world.patch(one, priority=1),
        lambda: world.post(one, "pause"),
        lambda: world.cancel(one),
    ):
        answer = change()
        tags.append(answer.headers["etag"])
        assert tags[-1] == f'"{answer.json()["revision"]}"' == world.client.get(url(one)).headers["etag"]
    assert [int(tag.strip('"')) for tag in tags] == [2, 3, 4, 5]


CHANGES = [
    ("POST", "pause"),
    ("POST", "resume"),
    ("POST", "cancel"),
    ("POST", "archive"),
    ("PATCH", ""),
    ("DELETE", ""),
]


def test_a_change_with_if_match_applies_to_that_revision_only(world: World) -> None:
    for method, verb in CHANGES:
        one = world.submit()
        world.post(one, "pause")
        if verb in {"pause", "cancel"}:
            world.post(one, "resume")
        now = world.show(one)

        def change(if_match: str, method: str = method, verb: str = verb, one: str = one) -> httpx.Response:
            body = {"priority": 9} if method == "PATCH" else None
            answer: httpx.Response = world.client.request(
                method, url(one, verb).rstrip("/"), json=body, headers={"If-Match": if_match}
            )
            return answer

        late = change('"1"')
        assert late.status_code == 412, (method, verb)
        assert f'If-Match is "1", but experiment {one} is at revision "{now["revision"]}"' in late.json()["detail"]
        assert change("1").status_code == 400
        assert change("x" * 2000).status_code == 422
        assert world.show(one) == now
        assert change(f'"{now["revision"]}"').is_success, (method, verb)
        assert change("*").is_success, "asking twice is asking once"


def test_of_two_changes_to_the_same_revision_one_succeeds(world: World) -> None:
    one = world.submit()
    tag = world.client.get(url(one)).headers["etag"]
    answers = [
        world.client.patch(url(one), json={"priority": number}, headers={"If-Match": tag}).status_code
        for number in (1, 2)
    ]
    assert answers == [200, 412]
    assert world.show(one)["controls"]["priority"] == 1


PATCHES: list[tuple[Any, str, str]] = [
    ({"prioritty": 1}, "prioritty", "did you mean 'priority'?"),
    ({"prioritty": None}, "prioritty", "did you mean 'priority'?"),
    ({"budget": {"gpu_hour": None}}, "budget.gpu_hour", "did you mean 'gpu_hours'?"),
    ({"name": "y"}, "name", "`rung change` changes priority, num_samples"),
    ({"priority": 101}, "priority", "must be at most 100"),
    ({"priority": "high"}, "priority", "must be a whole number"),
    ({"num_samples": None}, "num_samples", "must be a value, not null"),
    ({"num_samples": 0}, "num_samples", "must be at least 1"),
    ({"num_samples": 10**9}, "num_samples", "must be at most 100000"),
    ({"max_concurrent_trials": 0}, "max_concurrent_trials", "must be at least 1"),
    ({"goal": "0.9"}, "goal", "must be a number"),
    ({"goal": 95}, "goal", "must be between 0 and 1 for validation_accuracy"),
    ({"budget": 3}, "budget", "must be a mapping"),
    ({"budget": {"wall_clock": "soon"}}, "budget.wall_clock", "seconds, or a number with s, m, h or d"),
    ({"budget": {"slot_hours": {"a": None}}}, "budget.slot_hours", "must be"),
]
BODIES: list[tuple[bytes, str, int]] = [
    (b'{"goal": NaN}', "application/json", 422),
    (b'{"goal": 1e999}', "application/merge-patch+json", 422),
    (b"[]", "application/json", 422),
    (b"null", "application/json", 422),
    (b"", "application/json", 422),
    (b"{", "application/json", 422),
    (b'{"priority": 1, "priority": 2}', "application/json", 422),
    (b"[" * 50_000, "application/json", 422),
    (b"{}", "application/json-patch+json", 415),
    (b"{}", "", 415),
    (b"x" * 2_000_000, "application/json", 413),
]


def test_bad_patches_change_nothing(world: World) -> None:
    one = world.submit()
    before = world.show(one)
    for patch, field, rule in PATCHES:
        answer = world.client.patch(url(one), json=patch, headers={"content-type": "application/merge-patch+json"})
        assert answer.status_code == 422, patch
        found = [error for error in answer.json()["errors"] if error["field"] == field]
        assert found, (patch, answer.json())
        assert rule in found[0]["rule"], (patch, answer.json())
    for body, media_type, status in BODIES:
        answer = world.client.patch(url(one), content=body, headers={"content-type": media_type})
        assert answer.status_code == status, (body[:40], answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
    assert world.show(one) == before


def test_the_documented_examples_are_accepted(world: World) -> None:
    paths = world.client.get("/api/v1/openapi.json").json()["paths"]
    address = "/api/v1/experiments/{experiment_id}"
    for path, method, status in ((f"{address}/continue", "post", 201), (address, "patch", 200)):
        one = world.ended(done=10, **TEN)
        for media_type, content in paths[path][method]["requestBody"]["content"].items():
            for title, example in content["examples"].items():
                answer = world.client.request(
                    method,
                    path.replace("{experiment_id}", one),
                    content=json.dumps(example["value"]),
                    headers={"content-type": media_type},
                )
                assert answer.status_code == status, (title, answer.text)
    assert world.show(one)["controls"]["num_samples"] == 40
    for verb in ("pause", "resume", "cancel", "archive", "unarchive"):
        assert {"200", "404", "409", "412"} <= paths[f"{address}/{verb}"]["post"]["responses"].keys()


def test_changes_of_unknown_experiments_are_404(client: httpx.Client) -> None:
    for experiment_id in ("k3v9q2mz", "%00", "x" * 500, "%C3%A9"):
        for method, verb in [*CHANGES, ("POST", "unarchive"), ("POST", "trials/0/cancel")]:
            answer = client.request(
                method, url(experiment_id, verb).rstrip("/"), json={} if method == "PATCH" else None
            )
            assert answer.status_code == 404, (method, verb, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
    for number, status in (("-1", 422), ("x", 422), ("9" * 30, 422)):
        assert client.post(url("k3v9q2mz", "trials", number, "cancel")).status_code == status
