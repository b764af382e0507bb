"""The service's log: one record is one line of JSON, or a text for people, with the ids of what it is about."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NoReturn

import pytest

from service import logs
from service.context import AppContext
from service.environment import SettingsError, read_settings
from service.scheduling.reconciler import Reconciler
from service.settings import Settings
from tests.support.clock import Clock
from tests.support.reconciling import reconcile_for
from tests.support.world import World


@contextmanager
def logged(form: Literal["text", "json"]) -> Iterator[io.StringIO]:
    written = io.StringIO()
    handler = logs.handler(written, form)
    logging.getLogger().addHandler(handler)
    try:
        yield written
    finally:
        logging.getLogger().removeHandler(handler)


def entries(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_what_happens_to_a_driver_has_the_ids_of_its_experiment_and_its_attempt(
    world: World, context: AppContext, clock: Clock, settings: Settings
) -> None:
    with logged("json") as written:
        experiment = world.started()
        world.beat(experiment, {"phase": "searching"})
        reconcile_for(
            Reconciler(context, clock, clock.monotonic), clock, settings.lease_s + settings.driver_lost_s + 10
        )
    [lost] = [one for one in entries(written) if "is lost" in one["event"]]
    assert lost["experiment"] == experiment
    assert lost["attempt"] == f"exp-{experiment}-a1"
    assert (lost["level"], lost["logger"]) == ("warning", "service.scheduling.reconciler")
    assert lost["time"].endswith("+00:00")


LOGGING = """
import logging, sys
from service import logs
logs.configure(sys.stdout, "text")
for name in ("service.x", "uvicorn.error", "httpx", "alembic.runtime.migration", "anything"):
    logging.getLogger(name).info("told by %s", name)
    logging.getLogger(name).warning("warned by %s", name)
"""


def test_of_other_libraries_only_warnings_are_written() -> None:
    run = subprocess.run([sys.executable, "-c", LOGGING], capture_output=True, text=True, check=True)
    told = [line.rpartition(" ")[2] for line in run.stdout.splitlines() if "told by" in line]
    assert told == ["service.x", "uvicorn.error", "alembic.runtime.migration"]
    assert run.stdout.count("warned by") == 5


def test_a_traceback_is_in_one_line(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> NoReturn:
        raise RuntimeError("one line\nanother line")

    experiment = world.started()
    monkeypatch.setattr(world.launcher, "status", fail)
    with logged("json") as written:
        world.reconciler.reconcile_once()
    [failed] = [one for one in entries(written) if "skipping" in one["event"]]
    assert failed["experiment"] == experiment
    assert failed["error"].endswith("RuntimeError: one line\nanother line")


def test_a_failing_request_has_the_ids_of_its_path(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in another thread, and whatever a client writes there."""
    experiment = world.submit()
    with logged("json") as written:
        world.client.get("/api/v1/experiments/%0Aforged%20line/trials/7")
        monkeypatch.setattr("service.domain.experiments.find", lambda *_, **__: logging.getLogger("x").warning("here"))
        world.client.get(f"/api/v1/experiments/{experiment}/trials/7")
    here = [one for one in entries(written) if one["event"] == "here"]
    assert [one.get("experiment") for one in here] == [experiment]
    assert here[0]["trial"] == "7"


def test_a_text_of_several_lines_forges_no_record(world: World) -> None:
    with logged("text") as written, logs.about(experiment="k3v9q2mz", trial="\n1"):
        logging.getLogger("service.x").warning("the answer is %s", "bad\n2026-01-01 INFO service.y: all is well")
    first, second = written.getvalue().splitlines()
    assert first.endswith("WARNING service.x: the answer is bad")
    assert second == "  2026-01-01 INFO service.y: all is well [experiment=k3v9q2mz trial=?1]"


def test_ids_end_with_their_block() -> None:
    with logged("json") as written:
        with logs.about(request="r1"), logs.about(experiment="e1"):
            logging.getLogger("x").warning("inside")
        logging.getLogger("x").warning("outside")
    inside, outside = entries(written)
    assert (inside["request"], inside["experiment"]) == ("r1", "e1")
    assert not {"request", "experiment"} & outside.keys()


def test_the_format_is_a_setting() -> None:
    assert read_settings({"RUNG_HOME": "/x", "RUNG_LOG_FORMAT": "json"}).log_format == "json"
    with pytest.raises(SettingsError, match="RUNG_LOG_FORMAT: must be 'text' or 'json'"):
        read_settings({"RUNG_HOME": "/x", "RUNG_LOG_FORMAT": "xml"})
