"""Out of memory: if Ray kills a trial's process because the node runs out of memory, only that trial fails.

Owns the fix of a flaw of Ray Tune, which handles actors that died and steps that raised: `OutOfMemoryError`, which Ray
raises for an actor that its memory monitor killed, is neither and ends the whole search. It must not know what a trial
is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller


class KilledForMemoryError(RayActorError, OutOfMemoryError):
    """An actor died because its node ran out of memory."""


class _ActorManager(RayActorManager):
    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError) and not isinstance(exception, RayActorError):
            first = str(exception).partition("\n")[0]  # the rest is advice
            exception = KilledForMemoryError("", f"OutOfMemoryError: {first}")
        super()._actor_task_failed(tracked_actor_task, exception)


@contextmanager
def oom_as_actor_failure() -> Iterator[None]:
    """A search that starts in this context survives the memory monitor. Not for several threads at once."""
    names: dict[str, Any] = vars(tune_controller)
    before = names["RayActorManager"]
    names["RayActorManager"] = _ActorManager
    try:
        yield
    finally:
        names["RayActorManager"] = before
