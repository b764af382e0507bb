"""The share of a GPU that an attempt decides: measured once, journaled, reported, and the same for later attempts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search_spaces.protocol import Packing, Speed
from tests.support.attempts import Attempted, ScriptedProbe, directives, one_trial
from workers.attempt import MEASURING
from workers.state.events import PackingMeasured, decode, encode

FOUR = Packing(
    trials=4,
    peak_bytes=10**9,
    total_bytes=10**10,
    speeds=[Speed(trials=1, images_per_second=100.0), Speed(trials=4, images_per_second=300.0)],
)
AUTO = {"resources": {"gpus_per_trial": "auto"}}


def share(done: Attempted) -> Any:
    return done.specs[-1].resources.gpus_per_trial


def entries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def test_it_is_measured_once_and_kept(attempt: Callable[..., Attempted], service: Any, tmp_path: Path) -> None:
    probe = ScriptedProbe(FOUR)
    done = attempt(one_trial, changes=AUTO, probe=probe)
    assert (done.succeeded, probe.measured, share(done)) == (True, 1, 0.25)
    assert service.heard[-1].packing == FOUR
    (event,) = [entry for entry in entries(tmp_path) if entry["event"] == "packing"]
    assert [event[name] for name in ("trials", "peak_bytes", "note")] == [4, 10**9, ""]
    again = attempt(lambda *_: None, changes=AUTO, probe=probe, attempt=2)
    assert (probe.measured, share(again)) == (1, 0.25)
    assert service.heard[-1].packing == FOUR


def test_what_the_service_knows_is_not_measured_again(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    """Where the journal was lost, its slots are shares of this size."""
    probe = ScriptedProbe(Packing(trials=2))
    done = attempt(one_trial, changes=AUTO, probe=probe, packing=FOUR)
    assert (probe.measured, share(done), service.heard[-1].packing) == (0, 0.25, FOUR)
    assert "packing" in [entry["event"] for entry in entries(tmp_path)]


def test_where_nothing_was_measured_each_trial_has_a_gpu_in_this_attempt(
    attempt: Callable[..., Attempted], service: Any, tmp_path: Path
) -> None:
    done = attempt(one_trial, changes=AUTO, probe=ScriptedProbe(None))
    assert (share(done), service.heard[-1].packing) == (1.0, None)
    assert "packing" not in [entry["event"] for entry in entries(tmp_path)]


@pytest.mark.parametrize("gpus", [None, 0, 0.5, 1])
def test_a_size_that_is_given_is_not_measured(attempt: Callable[..., Attempted], service: Any, gpus: float) -> None:
    probe = ScriptedProbe(FOUR)
    done = attempt(one_trial, changes={"resources": {"gpus_per_trial": gpus}}, probe=probe)
    assert (probe.measured, share(done), service.heard[-1].packing) == (0, gpus, None)


def test_a_stop_while_it_is_measured_ends_the_attempt(attempt: Callable[..., Attempted], service: Any) -> None:
    class Stopped(ScriptedProbe):
        def measure(self, spec: Any, launch: Any, newest: Any, stop_requested: Callable[[], bool]) -> Packing | None:
            while MEASURING not in {beat.reason for beat in service.heard}:
                threading.Event().wait(0.01)
            service.answer = directives(stop="cancel")
            while not stop_requested():
                threading.Event().wait(0.01)
            return None

    def nothing(recorder: Any, callback: Any) -> None:
        assert callback.slots() == 0

    assert attempt(nothing, changes=AUTO, probe=Stopped()).succeeded
    assert service.heard[-1].phase == "canceled"


def test_the_event_is_read_back() -> None:
    event = PackingMeasured(at=1.0, packing=FOUR)
    assert decode(json.loads(json.dumps(encode(event)))) == event
