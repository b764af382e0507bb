"""Idle processes release their slots, also one that does not end by itself while nothing else runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from workers.ray_patches import idle_actors


class Actors:
    """Ray's actors as Tune's manager has them: each event is the end of one, of one that is busy if it is killed.

    One named `starting` has not started yet, and must be killed too.
    """

    def __init__(self, *live: str) -> None:
        self.live_actors = list(live)
        self.killed: list[str] = []

    @property
    def num_live_actors(self) -> int:
        return len(self.live_actors)

    def remove_actor(self, actor: str, kill: bool) -> None:
        assert kill
        self.killed.append(actor)

    def next(self, timeout: float) -> None:
        assert timeout <= 1
        over = [actor for actor in self.live_actors if actor not in {"busy", "starting"} or actor in self.killed]
        if over:
            self.live_actors.remove(over[0])


class Tune:
    """The private parts of Tune's controller that are used."""

    def __init__(self, actors: Actors, cached: int = 1, pending: int = 0, running: int = 0) -> None:
        self._actor_manager = actors
        self._actor_cache = SimpleNamespace(num_cached_objects=cached)
        self._pending_trials = ["trial"] * pending
        self._running_trials = ["trial"] * running
        self._started_actors = set(actors.live_actors) - {"starting"}
        self.stopped = False
        self._tune_controller = self

    def _cleanup_cached_actors(self, force_all: bool) -> None:
        assert force_all
        self.stopped = True


@pytest.mark.parametrize(
    ("now", "stopped", "left"),
    [
        ({}, True, []),
        ({"running": 1}, True, ["one", "two"]),  # Tune sees to their ends, as its loop continues
        ({"pending": 1}, False, ["one", "two"]),
        ({"cached": 0}, False, ["one", "two"]),
    ],
)
def test_idle_processes_end_if_no_trial_will_use_them(now: dict[str, int], stopped: bool, left: list[str]) -> None:
    actors = Actors("one", "two")
    tune: Any = Tune(actors, **now)
    idle_actors.release_idle_actors(tune)
    assert (tune.stopped, actors.live_actors, actors.killed) == (stopped, left, [])


def test_a_process_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a canceled trial, say, that loads data for minutes. Without a slot nothing else would end it."""
    monkeypatch.setattr(idle_actors, "STOP_S", 0.05)
    actors = Actors("busy", "polite")
    idle_actors.release_idle_actors(Tune(actors))
    assert (actors.live_actors, actors.killed) == ([], ["busy"])


def test_a_process_that_no_trial_has_used_is_not_waited_for() -> None:
    """It would end only after its imports, which take seconds."""
    actors = Actors("one", "starting")
    idle_actors.release_idle_actors(Tune(actors))
    assert (actors.live_actors, set(actors.killed)) == ([], {"starting"})
