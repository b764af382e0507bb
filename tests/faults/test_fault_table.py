"""The rows of the fault table that only `make test-faults` runs. `docs/reliability.md` has the whole table."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from search_spaces.protocol import ENDED_TRIAL_STATES
from search_spaces.storage.base import open_root
from service.client import Client
from tests.faults.experiments import SPACE, TRIALS, driver_of, parallel, serial, wait_for_end, wait_for_epochs
from tests.faults.invariants import JOURNAL, assert_nothing_lost, entries, finished
from tests.faults.stand import Stand
from tests.support.processes import is_alive

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(1200)]

MLFLOW_DOWN_S = 60.0
FROZEN_S = 22.0  # a driver that is silent for 20 s is lost
#: After two random trials, each proposal depends on the results of earlier trials.
LEARNING = {"kind": "tpe", "num_samples": TRIALS, "startup_trials": 2}
FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
NO_SUCH_MEMORY = """
import torch


def build(normalizer, channels, classes, image_size):
    return torch.empty(10**15, dtype=torch.uint8)
"""


def test_mlflow_killed_and_back_after_a_minute(stand: Stand, undisturbed: Callable[..., str]) -> None:
    like = undisturbed()
    submitted = stand.rung.submit(serial("mlflow-killed"))
    wait_for_epochs(stand, submitted.id, 2)
    before = finished(stand, submitted.id)
    stand.kill("mlflow")
    killed = time.monotonic()
    wait_for_epochs(stand, submitted.id, 6)  # training does not wait for MLflow
    time.sleep(max(0.0, killed + MLFLOW_DOWN_S - time.monotonic()))
    stand.start("mlflow")
    wait_for_end(stand, submitted.id)
    view = assert_nothing_lost(stand, submitted.id, TRIALS, like=like, before=before, trained_again=0)
    assert view.attempt == 1


def test_ray_killed_and_started_again(stand: Stand, undisturbed: Callable[..., str]) -> None:
    like = undisturbed(searcher=LEARNING)
    submitted = stand.rung.submit(serial("ray-killed", searcher=LEARNING))
    wait_for_epochs(stand, submitted.id, 5)
    before = finished(stand, submitted.id)
    stand.kill("ray")
    stand.start("ray")
    wait_for_end(stand, submitted.id)
    view = assert_nothing_lost(stand, submitted.id, TRIALS, like=like, before=before, trained_again=1)
    assert view.attempt == 2


def test_postgres_killed_and_started_again(stand: Stand, undisturbed: Callable[..., str]) -> None:
    like = undisturbed()
    submitted = stand.rung.submit(serial("postgres-killed"))
    wait_for_epochs(stand, submitted.id, 3)
    before = finished(stand, submitted.id)
    stand.kill("postgres")
    written = len(entries(stand, submitted.id))
    stand.wait_until(lambda: len(entries(stand, submitted.id)) >= written + 2, "epochs without a database")
    stand.start("postgres")
    wait_for_end(stand, submitted.id)
    view = assert_nothing_lost(stand, submitted.id, TRIALS, like=like, before=before, trained_again=0)
    assert view.attempt == 1


def test_all_killed_at_once(stand: Stand, undisturbed: Callable[..., str]) -> None:
    like = undisturbed(searcher=LEARNING)
    submitted = stand.rung.submit(serial("all-killed", searcher=LEARNING))
    wait_for_epochs(stand, submitted.id, 5)
    before = finished(stand, submitted.id)
    stand.kill("service", "ray", "mlflow", "postgres")
    stand.restore()
    wait_for_end(stand, submitted.id)
    assert_nothing_lost(stand, submitted.id, TRIALS, like=like, before=before, trained_again=1)


@pytest.fixture
def small_disk(stand: Stand, undisturbed: Callable[..., str], tmp_path: Path) -> Iterator[Path]:
    """The service stores experiments on a file system of 24 MiB."""
    undisturbed()  # first, because experiments on the small disk disappear with it
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(tmp_path)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    open_root(str(tmp_path)).identify(str(open_root(str(stand.storages[0])).identity()))
    stand.storages.insert(0, tmp_path)
    try:
        stand.restart_service(STORAGE_ROOT=str(tmp_path))
        stand.wait_until_ready()
        yield tmp_path
    finally:
        stand.storages.remove(tmp_path)
        stand.restart_service()
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_full_disk(stand: Stand, undisturbed: Callable[..., str], small_disk: Path) -> None:
    like = undisturbed()
    submitted = stand.rung.submit(serial("disk-full"))
    wait_for_epochs(stand, submitted.id, 3)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            while _fits(file.fileno(), size):
                pass
    view = wait_for_end(stand, submitted.id)
    assert view.state == "PAUSED"
    assert "disk" in view.reason
    assert "full" in view.reason
    before = finished(stand, submitted.id)
    filler.unlink()
    httpx.post(f"{stand.url}/api/v1/experiments/{view.id}/resume", trust_env=False).raise_for_status()
    stand.wait_until(lambda: stand.rung.get(view.id).state != "PAUSED", "the experiment resumes")
    wait_for_end(stand, view.id)
    assert_nothing_lost(stand, view.id, TRIALS, like=like, before=before, trained_again=2)


def _fits(descriptor: int, size: int) -> bool:
    try:
        return os.write(descriptor, b"\0" * size) == size
    except OSError:
        return False


@pytest.mark.skipif(not FAKETIME, reason="libfaketime is not installed")
def test_a_clock_that_jumps(stand: Stand, undisturbed: Callable[..., str], tmp_path: Path) -> None:
    """Back by an hour, then forward by two. The monotonic clock of the service is not affected, as on a real machine.

    The service then writes a lease that seems to last for an hour. A replica with the right time does not wait for it.
    """
    like = undisturbed()
    clock = tmp_path / "clock"
    clock.write_text("+0")
    stand.restart_service(
        LD_PRELOAD=str(FAKETIME[0]),
        FAKETIME_TIMESTAMP_FILE=str(clock),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    try:
        stand.wait_until_ready()
        submitted = stand.rung.submit(serial("clock-jumps"))
        wait_for_epochs(stand, submitted.id, 2)
        clock.write_text("-3600")
        wait_for_epochs(stand, submitted.id, 4)
        clock.write_text("+3600")
        wait_for_epochs(stand, submitted.id, 6)
        ahead = "SELECT expires_at > now() + interval '30 minutes' FROM leases WHERE name = 'queue'"
        stand.wait_until(lambda: stand.query("rung", ahead) == [(True,)], "a lease that seems to last for an hour")
        stand.start("second")
        stand.kill("service")
        stand.wait_until(lambda: _holder(stand) == "second", "the second replica takes over", 30)
    finally:
        stand.restart_service()
        stand.wait_until_ready()
    wait_for_end(stand, submitted.id)
    view = assert_nothing_lost(stand, submitted.id, TRIALS, like=like, trained_again=0)
    assert view.attempt == 1, "no driver was counted as lost"


def _holder(stand: Stand) -> str:
    """The running part that holds the lease; empty if there is none."""
    ((owner,),) = stand.query("rung", "SELECT owner FROM leases WHERE name = 'queue'")
    return next(
        (name for name in ("service", "second") if stand.is_running(name) and f"-{stand.pid(name)}-" in owner), ""
    )


def test_a_replica_frozen_longer_than_its_lease(stand: Stand, undisturbed: Callable[..., str]) -> None:
    """The other replica takes over. The first received no heartbeat meanwhile, and counts no driver as lost."""
    long: dict[str, Any] = {"trials": 1, "max_epochs": 100, "early_stopping": "none"}
    like = undisturbed(**long)
    stand.start("second")
    stand.kill("service")
    stand.wait_until(lambda: _holder(stand) == "second", "the second replica holds the lease")
    stand.start("service")
    submitted = stand.rung.submit(serial("replica-frozen", **long))
    wait_for_epochs(stand, submitted.id, 2)
    os.kill(stand.pid("second"), signal.SIGSTOP)
    frozen = time.monotonic()
    stand.wait_until(lambda: _holder(stand) == "service", "the first replica takes over")
    time.sleep(max(0.0, frozen + FROZEN_S - time.monotonic()))
    os.kill(stand.pid("second"), signal.SIGCONT)
    wait_for_end(stand, submitted.id)
    view = assert_nothing_lost(stand, submitted.id, 1, like=like, trained_again=0)
    assert view.attempt == 1, "no driver was stopped or replaced"


def test_a_trial_out_of_memory(stand: Stand) -> None:
    (stand.plugins / "greedy.py").write_text(NO_SUCH_MEMORY)
    metadata = stand.plugins / "greedy-1.0.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: greedy\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[rung.models]\ngreedy = greedy:build\n")
    models = {"choice": [SPACE["model"], {"kind": "plugin", "name": "greedy"}, {"kind": "cnn", "width": 8}]}
    space = {"model": models, "batch_size": 64, "optimizer": {"kind": "adam", "lr": 1e-3}}
    submitted = stand.rung.submit(serial("out-of-memory", searcher="grid", search_space=space, max_restarts=2))
    wait_for_end(stand, submitted.id)
    view = assert_nothing_lost(stand, submitted.id, 3, states=frozenset(ENDED_TRIAL_STATES - {"CANCELED"}))
    greedy = stand.rung.trial(view.id, 1)
    assert greedy.state == "ERROR"
    assert (greedy.error_kind, greedy.restarts) == ("OUT_OF_MEMORY", 2)
    assert {stand.rung.trial(view.id, number).state for number in (0, 2)} <= {"COMPLETED", "EARLY_STOPPED"}


def test_two_replicas_race_for_one_queue(stand: Stand) -> None:
    stand.start("second")
    short = {"max_epochs": 2, "early_stopping": {"kind": "asha", "grace_period": 1, "reduction_factor": 2}}
    urls = [stand.url, stand.second_url] * 3

    def submit(number: int) -> str:
        body = serial(f"raced-{number}", trials=2, **short)
        answer = httpx.post(f"{urls[number]}/api/v1/experiments", json=body, trust_env=False, timeout=30)
        answer.raise_for_status()
        return str(answer.json()["id"])

    with ThreadPoolExecutor(len(urls)) as pool:
        ids = list(pool.map(submit, range(len(urls))))
    stand.wait_until(
        lambda: any(trial.epoch for one in ids for trial in stand.rung.trials(one)), "an epoch of one experiment", 400
    )
    holder = _holder(stand)
    assert holder
    stand.kill(holder)
    with psycopg.connect(stand.dsn("rung")) as connection:
        waiting = connection.execute("SELECT id FROM experiments WHERE state = 'QUEUED'").fetchall()
    if holder == "service":  # which `stand.rung` uses
        with Client(stand.second_url) as other:
            stand.wait_until(
                lambda: {other.get(one).state for one in ids} == {"COMPLETED"},
                "all experiments complete without the first holder of the lease",
                400,
            )
        stand.start("service")
    for one in ids:
        wait_for_end(stand, one)
        view = assert_nothing_lost(stand, one, 2, trained_again=0)
        assert view.attempt == 1
    logs = stand.log("service") + stand.log("second")
    launched = Counter(line.rpartition("launched ")[2].split()[0] for line in logs.splitlines() if "launched " in line)
    assert {name: launched[name] for name in (f"exp-{one}-a1" for one in ids)} == {f"exp-{one}-a1": 1 for one in ids}
    assert waiting, "all experiments were launched before the holder was killed"


def test_a_driver_cut_off_for_a_moment(stand: Stand, undisturbed: Callable[..., str]) -> None:
    like = undisturbed()
    submitted = stand.rung.submit(serial("cut-short"))
    wait_for_epochs(stand, submitted.id, 2)
    stand.proxy.cut()
    time.sleep(4)  # a driver is replaced after 20 s of silence
    stand.proxy.mend()
    wait_for_end(stand, submitted.id)
    view = assert_nothing_lost(stand, submitted.id, TRIALS, like=like, trained_again=0)
    assert view.attempt == 1


def test_a_driver_frozen_and_cut_off_for_long(stand: Stand, undisturbed: Callable[..., str]) -> None:
    """The driver is frozen meanwhile, as on a machine that hangs: it does not react to Ray's stop request either."""
    like = undisturbed()
    submitted = stand.rung.submit(serial("cut-long"))
    wait_for_epochs(stand, submitted.id, 3)
    before = finished(stand, submitted.id)
    old = driver_of(stand, submitted.id)
    os.kill(old, signal.SIGSTOP)
    stand.proxy.cut()
    stand.wait_until(lambda: stand.rung.get(submitted.id).attempts[0].state == "LOST", "the silent driver is lost")
    stand.proxy.mend()
    after = len(entries(stand, submitted.id)) + 2
    stand.wait_until(lambda: len(entries(stand, submitted.id)) >= after, "the second driver writes to the journal")
    os.kill(old, signal.SIGCONT)
    stand.wait_until(lambda: not is_alive(old), "the first driver exits by itself", 90)
    wait_for_end(stand, submitted.id)
    view = assert_nothing_lost(stand, submitted.id, TRIALS, like=like, before=before, trained_again=2)
    assert view.attempt == 2
    writers = [entry["by"] for entry in _raw(stand.files(view.id) / JOURNAL)]
    assert writers == sorted(writers), "the first driver wrote to the journal after the second had started"


def test_a_driver_replaced_while_it_runs(stand: Stand, undisturbed: Callable[..., str]) -> None:
    """It is marked as lost by mistake and nobody stops it: only the response to its heartbeat makes it exit."""
    like = undisturbed()
    submitted = stand.rung.submit(serial("replaced"))
    wait_for_epochs(stand, submitted.id, 3)
    before = finished(stand, submitted.id)
    old = driver_of(stand, submitted.id)
    with psycopg.connect(stand.dsn("rung")) as connection:
        queued = "UPDATE experiments SET state = 'QUEUED', slots = 0 WHERE id = %s"
        lost = "UPDATE attempts SET state = 'LOST' WHERE experiment_id = %s"
        assert [connection.execute(one, (submitted.id,)).rowcount for one in (queued, lost)] == [1, 1]
    stand.wait_until(lambda: not is_alive(old), "the first driver exits by itself", 90)
    wait_for_end(stand, submitted.id)
    view = assert_nothing_lost(stand, submitted.id, TRIALS, like=like, before=before, trained_again=1)
    assert view.attempt == 2
    log = (stand.files(view.id) / "logs" / "driver-a1.log").read_text()
    assert "the service no longer accepts this attempt" in log, "it was stopped from outside"


def _raw(path: Path) -> Iterator[dict[str, int]]:
    """All lines of a journal, also those of superseded drivers."""
    for line in path.read_bytes().splitlines(keepends=True):
        yield json.loads(line)


@pytest.mark.parametrize("moment", ["before the request", "before the response"])
def test_sigterm_during_a_submission(stand: Stand, moment: str) -> None:
    name = f"submitted-{moment.replace(' ', '-')}"

    def terminate() -> None:
        os.kill(stand.pid("service"), signal.SIGTERM)

    interfere = stand.proxy.before_request if moment == "before the request" else stand.proxy.instead_of_response
    interfere(b"POST /api/v1/experiments", terminate)
    body = parallel(name, trials=2)

    def submit() -> str:
        answer = httpx.post(
            f"{stand.proxy.url}/api/v1/experiments",
            json=body,
            headers={"Idempotency-Key": name},
            trust_env=False,
            timeout=30,
        )
        answer.raise_for_status()
        return str(answer.json()["id"])

    with contextlib.suppress(httpx.TransportError):  # the client cannot know whether it was accepted
        submit()
    stand.wait_until(lambda: not stand.is_running("service"), "the service exits")
    stand.start("service")
    first, again = submit(), submit()
    assert first == again
    assert [one.id for one in stand.rung.list(name=name)] == [first]
    wait_for_end(stand, first)
    assert_nothing_lost(stand, first, 2, trained_again=0)
