"""Ray's memory monitor: a process that it kills is the failure of one trial; without the patch it ends the search."""

from __future__ import annotations

from typing import Any

import pytest
from ray import cloudpickle
from ray.air.execution import PlacementGroupResourceManager
from ray.air.execution._internal import TrackedActor
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import OutOfMemoryError
from ray.tune.execution import tune_controller

from search_spaces.protocol import ErrorKind
from workers.failures import from_ray
from workers.ray_patches import out_of_memory

KILLED = "Task was killed due to the node running low on memory.\nAdvice."


def failed_of(manager_class: Any, monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What Tune receives when the memory monitor kills an actor in a step."""
    manager = manager_class(resource_manager=PlacementGroupResourceManager())
    monkeypatch.setattr(manager, "_cleanup_actor", lambda tracked_actor: None)
    told: list[BaseException] = []
    actor = TrackedActor(7)
    task = TrackedActorTask(actor, on_error=lambda _, error: told.append(error))
    manager._actor_task_failed(task, OutOfMemoryError(KILLED))
    return told


def test_tune_sees_an_actor_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    before = tune_controller.RayActorManager
    with pytest.raises(RuntimeError, match="unexpected exception"):
        failed_of(before, monkeypatch)  # should this pass one day, Ray has mended it and `memory` can go
    with out_of_memory.oom_as_actor_failure():
        (error,) = failed_of(tune_controller.RayActorManager, monkeypatch)
    assert tune_controller.RayActorManager is before
    failure = from_ray.classify(
        cloudpickle.loads(cloudpickle.dumps(error)), f"Failure # 1 (occurred at 2026-01-01_00-00-00)\n{error}\n"
    )
    assert failure.kind is ErrorKind.OUT_OF_MEMORY
    assert failure.reason == "OutOfMemoryError: Task was killed due to the node running low on memory."
