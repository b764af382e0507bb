"""No document that a client sends is parsed in the event loop: others would wait for as long as that takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from service.api import submission
from service.api.routes import heartbeats
from service.domain import merge_patch
from tests.support.world import World


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each document that was parsed since, whether that was in a thread with a running event loop."""
    found: list[bool] = []

    def watched(parse: Callable[..., Any]) -> Callable[..., Any]:
        def watching(*arguments: Any, **options: Any) -> Any:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                found.append(False)
            else:
                found.append(True)
            return parse(*arguments, **options)

        return watching

    for module, parse in ((submission, "read"), (merge_patch, "parse")):
        monkeypatch.setattr(module, parse, watched(getattr(module, parse)))
    monkeypatch.setattr(heartbeats.Heartbeat, "model_validate", watched(heartbeats.Heartbeat.model_validate))
    return found


@pytest.mark.parametrize("media_type", ["application/json", "application/yaml"])
@pytest.mark.parametrize("query", ["", "?validate_only=true"])
def test_a_spec_is_parsed_outside_the_event_loop(world: World, parsed: list[bool], media_type: str, query: str) -> None:
    answer = world.client.post(
        f"/api/v1/experiments{query}", content='{"name": "x"}', headers={"Content-Type": media_type}
    )
    assert answer.is_success
    assert parsed == [False]


def test_a_change_is_parsed_outside_the_event_loop(world: World, parsed: list[bool]) -> None:
    experiment = world.submit()
    del parsed[:]
    assert world.patch(experiment, priority=1).is_success
    assert parsed
    assert not any(parsed)


def test_a_heartbeat_is_parsed_outside_the_event_loop(world: World, parsed: list[bool]) -> None:
    experiment = world.started()
    del parsed[:]
    assert world.beat(experiment, {"phase": "searching"}).is_success
    assert parsed
    assert not any(parsed)
