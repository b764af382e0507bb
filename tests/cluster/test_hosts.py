"""Searches on several hosts: the containers of docker/compose.yaml, with two nodes that train, and what becomes of them
when something fails.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.cluster.conftest import TRIALS
from tests.cluster.layers import REPOSITORY
from tests.cluster.site import Site
from tests.deployment.compose_file import Mount, Service
from tests.deployment.dockerfile import images
from tests.faults.experiments import parallel, serial, wait_for_end, wait_for_epochs
from tests.faults.invariants import assert_nothing_lost, finished
from tests.support.processes import command
from workers.nodes import own_version

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

CUT_S = 60.0
NEWER = "0.2.99"
FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def test_a_search_on_two_hosts(site: Site) -> None:
    spec = parallel("two-hosts", trials=TRIALS, resources={"max_concurrent_trials": 2, "cpus_per_trial": 2})
    submitted = site.rung.submit(spec)
    hosts: set[str] = set()

    def both() -> bool:
        hosts.update(one.name for one in site.workers() if site.processes(one, "ray::TrialWorker"))
        return len(hosts) == 2

    site.wait_until(both, "a trial on each of the two nodes", look_s=0.2)
    wait_for_end(site, submitted.id)
    view = assert_nothing_lost(site, submitted.id, TRIALS)
    assert view.attempt == 1
    assert site.rung.curves(submitted.id, 0).metrics, "the service reads the curves from MLflow"


def test_a_link_between_a_node_and_the_head_is_cut_and_comes_back(site: Site, undisturbed: str) -> None:
    submitted = site.rung.submit(serial("link-cut", trials=TRIALS))
    wait_for_epochs(site, submitted.id, 3)
    worker, before = site.worker_of_a_trial(), finished(site, submitted.id)
    worker.cut(site.installation.host)
    try:
        site.wait_for_nodes(1)
    finally:
        worker.mend(site.installation.host)
    wait_for_end(site, submitted.id)
    assert_nothing_lost(site, submitted.id, TRIALS, like=undisturbed, before=before, trained_again=1)
    site.wait_for_nodes(2)


def test_a_raylet_is_killed(site: Site, undisturbed: str) -> None:
    submitted = site.rung.submit(serial("raylet-killed", trials=TRIALS))
    wait_for_epochs(site, submitted.id, 3)
    worker, before = site.worker_of_a_trial(), finished(site, submitted.id)
    [raylet] = [pid for pid in site.processes(worker, "raylet/raylet") if "/raylet" in command(pid).split()[0]]
    os.kill(raylet, signal.SIGKILL)
    wait_for_end(site, submitted.id)
    assert_nothing_lost(site, submitted.id, TRIALS, like=undisturbed, before=before, trained_again=1)
    site.wait_for_nodes(2)


def test_a_node_is_added_while_a_search_runs(site: Site) -> None:
    """Each node holds one trial at a time: the third trial starts on the new one."""
    spec = parallel("node-added", trials=3, max_epochs=12, early_stopping="none")
    submitted = site.rung.submit(spec | {"resources": {"max_concurrent_trials": 3, "cpus_per_trial": 2}})
    wait_for_epochs(site, submitted.id, 2)
    added = site.installation.add("ray-worker-3")
    try:
        site.wait_until(lambda: site.processes(added, "ray::TrialWorker"), "a trial on the new node")
        wait_for_end(site, submitted.id)
        assert_nothing_lost(site, submitted.id, 3, trained_again=0)
    finally:
        site.installation.remove("ray-worker-3")
        site.wait_for_nodes(2)


def test_the_head_is_lost_and_comes_back(site: Site, undisturbed: str) -> None:
    submitted = site.rung.submit(serial("head-lost", trials=TRIALS))
    wait_for_epochs(site, submitted.id, 3)
    before = finished(site, submitted.id)
    site.installation["ray-head"].kill()
    wait_for_end(site, submitted.id, patience_s=600)
    view = assert_nothing_lost(site, submitted.id, TRIALS, like=undisturbed, before=before, trained_again=1)
    assert view.attempt == 2


def test_postgres_is_cut_off_for_a_minute(site: Site, undisturbed: str) -> None:
    submitted = site.rung.submit(serial("postgres-cut", trials=TRIALS))
    wait_for_epochs(site, submitted.id, 3)
    before = finished(site, submitted.id)
    postgres = site.installation["postgres"]
    postgres.cut(site.installation.host)
    time.sleep(CUT_S)
    postgres.mend(site.installation.host)
    wait_for_end(site, submitted.id)
    view = assert_nothing_lost(site, submitted.id, TRIALS, like=undisturbed, before=before, trained_again=0)
    assert view.attempt == 1


def test_a_node_with_a_storage_of_its_own_is_named_and_not_used(site: Site) -> None:
    service = site.installation.services["ray-worker"]
    own = [Mount("other", one.target, one.read_only) if one.source == "storage" else one for one in service.mounts]
    service = dataclasses.replace(service, mounts=tuple(own))
    with another_node(site, service, site.installation.layers.of(service.target)) as name:
        assert_refused(site, "own-storage", f"node {name} does not see RUNG_STORAGE_ROOT /var/lib/rung/storage: ")
        assert f"node {name} does not see RUNG_STORAGE_ROOT" in doctor(site)


def test_a_node_with_another_version_of_rung_is_named_and_not_used(site: Site, tmp_path: Path) -> None:
    service = site.installation.services["ray-worker"]
    with another_node(site, service, site.installation.layers.of(service.target, newer(tmp_path))) as name:
        expected = f"node {name} has Rung {NEWER}, but the experiment runs with {own_version()}: "
        assert_refused(site, "other-version", expected)
        assert f"node {name} has Rung {NEWER}, but the service has {own_version()}" in doctor(site)


@pytest.mark.skipif(not FAKETIME, reason="libfaketime is not installed")
@pytest.mark.parametrize("hours", [1, -1])
def test_the_clock_of_the_service_is_wrong(site: Site, undisturbed: str, hours: int) -> None:
    """Only the service's: Ray does not work under libfaketime."""
    service = site.installation.services["rung"]
    wrong = {"LD_PRELOAD": str(FAKETIME[0]), "FAKETIME": f"{hours:+}h", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    submitted = site.rung.submit(serial(f"clock{hours:+}", trials=TRIALS))
    wait_for_epochs(site, submitted.id, 2)
    try:
        site.installation.add("rung", dataclasses.replace(service, environment={**service.environment, **wrong}))
        site.installation.wait_until_ready()
        wait_for_end(site, submitted.id)
        assert re.search(r"its clock and that of the service differ by 3\d{3} s", doctor(site))
    finally:
        site.installation.add("rung")
        site.installation.wait_until_ready()
    view = assert_nothing_lost(site, submitted.id, TRIALS, like=undisturbed, trained_again=0)
    assert view.attempt == 1


def test_the_service_is_replaced_by_a_newer_one_while_a_search_runs(
    site: Site, undisturbed: str, tmp_path: Path
) -> None:
    """The driver and the nodes keep the version with which the search began."""
    submitted = site.rung.submit(serial("upgrade", trials=TRIALS))
    wait_for_epochs(site, submitted.id, 2)
    before = finished(site, submitted.id)
    try:
        service = site.installation.services["rung"]
        layers = site.installation.layers.of(service.target, newer(tmp_path))
        site.installation.add("rung", layers=layers)
        site.installation.wait_until_ready()
        assert site.rung.checkup().version == NEWER
        wait_for_end(site, submitted.id)
    finally:
        site.installation.add("rung")
        site.installation.wait_until_ready()
    view = assert_nothing_lost(site, submitted.id, TRIALS, like=undisturbed, before=before, trained_again=0)
    assert view.attempt == 1


@contextlib.contextmanager
def another_node(site: Site, service: Service, layers: Sequence[Path]) -> Iterator[str]:
    """A third node, which differs from the others, by its name in Ray."""
    added = site.installation.add("ray-worker-3", service, layers)
    try:
        site.wait_for_nodes(3)
        yield added.address
    finally:
        site.installation.remove("ray-worker-3")
        site.wait_for_nodes(2)


def assert_refused(site: Site, name: str, expected: str) -> None:
    """A search in which each node could hold a trial names the third one, and completes on the others."""
    spec = parallel(name, trials=TRIALS, resources={"max_concurrent_trials": 3, "cpus_per_trial": 2})
    submitted = site.rung.submit(spec)
    site.wait_until(lambda: expected in site.rung.get(submitted.id).reason, f"the reason has {expected!r}")
    wait_for_end(site, submitted.id)
    view = assert_nothing_lost(site, submitted.id, TRIALS, trained_again=0)
    assert view.attempt == 1


def doctor(site: Site) -> str:
    """What `rung doctor` says of the service and of each node."""
    found = [*site.rung.checkup().findings, *site.rung.checkup_nodes().findings]
    return "\n".join(one.detail for one in found if one.verdict != "ok")


def newer(folder: Path) -> Path:
    """A copy of what the images are made of, with a higher version."""
    copied = {name for image in images().values() for words in image.copied for name in words[:-1]}
    for name in copied:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (REPOSITORY / name).is_file():
            shutil.copy(REPOSITORY / name, folder / name)
    project = folder / "pyproject.toml"
    changed = re.sub(r'(?m)^version = ".*"$', f'version = "{NEWER}"', project.read_text())
    project.write_text(changed)
    return folder
