"""Nodes that an experiment cannot use: they do not see its storage, or have another Rung, or none."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from search_spaces.pool_nodes import PoolNodes
from search_spaces.protocol import ErrorKind
from search_spaces.storage.folder import FolderArtifacts, FolderRoot, FolderStorage
from tests.support.clock import Clock
from tests.support.nodes import MemoryCluster
from tests.support.workers import BuildLaunch
from workers import nodes
from workers.failures.classification import Failure, NodeError, TrialError, classified
from workers.nodes import Nodes, check_node, own_version

#: Runs the check as a process in which Rung is not installed, and then as one in which another version is.
ELSEWHERE = """
import importlib.metadata, pickle, sys

class WithoutRung:
    @staticmethod
    def find_spec(name, *_):
        if name.partition(".")[0] in {"workers", "search_spaces"}:
            raise ImportError(name)

def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)

sys.meta_path.insert(0, WithoutRung)
for version in (missing, lambda name: "0.0.1"):
    importlib.metadata.version = version
    with open(sys.argv[1], "rb") as file:
        print(pickle.load(file)("/x/abc", "abc", "0.2.0"))
"""


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "VISIBLE_PAUSE_S", 0.0)


def test_a_node_that_sees_the_storage_and_has_the_same_rung_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "marker").write_text("abc")
    check_node(str(tmp_path), "abc", own_version())
    check_node(str(tmp_path / "of an older service"), "", "")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([], "does not see RUNG_STORAGE_ROOT {root}: {file}: No such file or directory"),
        (["root"], "does not see RUNG_STORAGE_ROOT {root}: {file}: No such file or directory"),
        (
            ["root/other"],
            "sees RUNG_STORAGE_ROOT {root}, but the experiment, {root}/abc, is gone from it, or it is another folder "
            "than the service's",
        ),
        (
            ["root/abc"],
            "sees RUNG_STORAGE_ROOT {root}, but {file} is gone from it, or it is another folder than the service's",
        ),
        (["root/abc", "another"], "sees another folder as RUNG_STORAGE_ROOT {root}: {file} differs"),
    ],
    ids=["no root", "an empty root", "a removed experiment", "a removed marker", "another folder"],
)
def test_a_node_says_how_much_of_the_storage_it_sees(tmp_path: Path, found: list[str], said: str) -> None:
    root = tmp_path / "root"
    for folder in found[:1]:
        (tmp_path / folder).mkdir(parents=True)
        if folder != "root":
            (tmp_path / folder / "spec.json").touch()
    if found[1:]:
        (root / "abc" / "marker").write_text("xyz")
    with pytest.raises(NodeError) as raised:
        check_node(str(root / "abc"), "abc", "")
    assert str(raised.value) == f"node {platform.node()} {said.format(root=root, file=root / 'abc' / 'marker')}"


@pytest.mark.parametrize("code", [errno.EACCES, errno.ESTALE, errno.EIO])
def test_a_marker_that_cannot_be_read_is_not_said_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    marker = tmp_path / "abc" / "marker"
    marker.parent.mkdir()
    marker.write_text("abc")

    def fail(*arguments: Any) -> None:
        raise OSError(code, os.strerror(code), str(marker))

    monkeypatch.setattr(FolderArtifacts, "open_reader", fail)
    with pytest.raises(NodeError) as raised:
        check_node(str(tmp_path / "abc"), "abc", "")
    assert str(raised.value) == (
        f"node {platform.node()} cannot read {marker} in RUNG_STORAGE_ROOT {tmp_path}: {os.strerror(code)}"
    )


def test_a_storage_that_is_no_folder_is_asked_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend of `bucket://b/...`, which holds one experiment, without its marker."""
    (tmp_path / "b/abc").mkdir(parents=True)
    (tmp_path / "b/abc/spec.json").touch()
    for name, backend in (("open_storage", FolderStorage), ("open_root", FolderRoot)):
        monkeypatch.setattr(
            nodes, name, lambda address, backend=backend: backend(tmp_path / address.removeprefix("bucket://"))
        )
    for experiment, gone in (("abc", "bucket://b/abc/marker"), ("old", "the experiment, bucket://b/old,")):
        with pytest.raises(NodeError, match=f"sees RUNG_STORAGE_ROOT bucket://b, but {gone} is gone from it, or "):
            check_node(f"bucket://b/{experiment}", "abc", "")


def test_a_root_with_an_identity_is_seen_although_it_has_no_experiment_and_is_a_link(tmp_path: Path) -> None:
    FolderRoot(tmp_path / "disk").identify("a3f0")
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    with pytest.raises(NodeError, match=f"sees RUNG_STORAGE_ROOT {tmp_path}/root, but the experiment, "):
        check_node(f"{tmp_path}/root/abc", "abc", "")


def test_another_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrialError) as raised, classified():
        check_node(str(tmp_path), "", "0.0.1")
    assert raised.value.failure.kind == "NODE"
    assert raised.value.failure.reason == (
        f"node {platform.node()} has Rung {own_version()}, but the experiment runs with 0.0.1: "
        "all nodes need the same version"
    )


def test_the_check_that_is_sent_to_a_node_needs_no_rung_there(tmp_path: Path) -> None:
    (tmp_path / "check").write_bytes(cloudpickle.dumps(nodes._check_by_value()))
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "check")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "has no Rung",
        "has Rung 0.0.1, but the experiment runs with 0.2.0: all nodes need the same version",
    ], done.stderr


def test_each_node_is_checked_once_also_one_that_joins_later(launch: BuildLaunch) -> None:
    clock = Clock()
    cluster = MemoryCluster("w1", "w2")
    cluster.problems["w2"] = "has no Rung"
    found = Nodes(launch(), cluster, clock.monotonic)
    found.look(10.0)
    assert (found.excluded(), found.reason()) == (["w2"], "node w2 has no Rung")
    cluster.cpus["w3"] = 2.0
    cluster.problems["w3"] = "has no Rung"
    cluster.slow.add("w3")
    found.look()
    assert cluster.begun == ["w1", "w2"], "Ray is not asked each time"
    clock.sleep(nodes.LOOK_S)
    found.look()
    assert (cluster.begun, found.excluded()) == (["w1", "w2", "w3"], ["w2"])
    cluster.slow.clear()
    found.look()
    assert found.excluded() == ["w2", "w3"]
    clock.sleep(nodes.LOOK_S)
    found.look()
    assert cluster.begun == ["w1", "w2", "w3"]


def test_a_node_that_failed_is_checked_again_after_a_while_and_then_used(launch: BuildLaunch) -> None:
    clock = Clock()
    cluster = MemoryCluster("w1", "w2", "w3")
    cluster.problems["w3"] = "has no Rung"
    found = Nodes(launch(), cluster, clock.monotonic)
    found.look()
    stale = Failure(ErrorKind.DATA, "node w2 cannot load the data set: Stale file handle", "w2")
    found.exclude(stale)
    found.exclude(stale)  # another trial that ran there
    clock.sleep(nodes.AGAIN_S - 1)
    found.look()
    assert (found.excluded(), len(cluster.begun)) == (["w2", "w3"], 3)
    clock.sleep(nodes.LOOK_S)
    found.look()
    assert (found.excluded(), found.reason()) == (["w3"], "node w3 has no Rung")
    assert cluster.begun[3:] == ["w2", "w3"], "one that cannot be used for another reason is only checked"
    found.exclude(stale)
    clock.sleep(nodes.AGAIN_S + nodes.LOOK_S)
    found.look()
    assert (found.excluded(), len(cluster.begun)) == (["w2", "w3"], 5), "the second wait is twice as long"
    clock.sleep(nodes.AGAIN_S)
    cluster.problems.clear()
    cluster.slow.add("w2")
    found.look()
    assert found.excluded() == ["w2"], "it is not used before it answers"
    cluster.slow.clear()
    found.look()
    assert found.excluded() == []


def test_a_node_that_failed_the_attempt_before_is_not_used_until_it_is_checked_later(launch: BuildLaunch) -> None:
    clock, cluster = Clock(), MemoryCluster("w1", "w2")
    found = Nodes(launch(excluded_nodes=["w2"]), cluster, clock.monotonic)
    found.look()
    assert (found.excluded(), found.reason()) == (["w2"], "node w2 failed the attempt before")
    assert cluster.begun == ["w1"], "a check now would only show that it is there"
    clock.sleep(nodes.AGAIN_S + nodes.LOOK_S)
    found.look()
    assert (found.excluded(), cluster.begun) == ([], ["w1", "w2"])


def test_a_node_whose_check_itself_fails_stays_excluded_and_a_new_one_is_used(launch: BuildLaunch) -> None:
    clock, cluster = Clock(), MemoryCluster("w1", "w2")
    cluster.broken = {"w1", "w2"}
    found = Nodes(launch(), cluster, clock.monotonic)
    found.look()
    assert found.excluded() == [], "the next trial there tells more"
    found.exclude(Failure(ErrorKind.DATA, "node w2 cannot load the data set: Stale file handle", "w2"))
    clock.sleep(nodes.AGAIN_S + nodes.LOOK_S)
    found.look()
    assert (found.excluded(), cluster.begun.count("w2")) == (["w2"], 2)
    cluster.broken.clear()
    clock.sleep(2 * nodes.AGAIN_S)
    found.look()
    assert (found.excluded(), cluster.begun.count("w2")) == ([], 3), "it was checked again"


def test_a_node_is_left_where_a_trial_fits(launch: BuildLaunch) -> None:
    found = Nodes(launch(), MemoryCluster("w1", "w2"))
    found.exclude(Failure(ErrorKind.NODE, "node w1 has no Rung", "w1"))
    assert found.any_left({"CPU": 2.0, "GPU": 0.0})
    assert not found.any_left({"CPU": 3.0})
    assert not found.any_left({"CPU": 1.0, "GPU": 1.0})
    found.exclude(Failure(ErrorKind.NODE, "node w2 has no Rung", "w2"))
    assert not found.any_left({"CPU": 1.0})


def test_no_selector_where_every_node_can_be_used(launch: BuildLaunch) -> None:
    found = Nodes(launch(), MemoryCluster("w1", "w2"))
    found.look()
    assert found.selector() == {}


def test_only_the_nodes_of_its_pool_are_checked_and_used(launch: BuildLaunch) -> None:
    cluster = MemoryCluster("w1", "w2", "w3")
    cluster.labels = {"w2": {"zone": "a", "disk": "fast"}, "w3": {"zone": "b"}}
    cluster.problems["w1"] = cluster.problems["w2"] = "has no Rung"
    found = Nodes(launch(pool=PoolNodes(labels={"zone": "b"})), cluster)
    found.look()
    assert (cluster.begun, found.excluded(), found.selector()) == (["w3"], [], {"zone": "b"})
    found.exclude(Failure(ErrorKind.NODE, "node w3 has no Rung", "w3"))
    assert not found.any_left({"CPU": 1.0}), "those of other pools do not count"


def test_the_pool_of_all_other_nodes_leaves_out_those_that_pools_with_several_labels_have(launch: BuildLaunch) -> None:
    clock, cluster = Clock(), MemoryCluster("w1", "w2", "w3", "w4")
    cluster.labels = {"w2": {"zone": "a", "disk": "fast"}, "w3": {"zone": "b"}, "w4": {"zone": "a"}}
    found = Nodes(launch(), cluster, clock.monotonic)
    found.look()
    assert found.selector() == {}
    others = [{"zone": "b"}, {"zone": "a", "disk": "fast"}, {"zone": "c"}]
    found.pool = PoolNodes(others=others)
    assert found.selector() == {"zone": "!in(b, c)", "ray.io/node-id": "!in(w2)"}
    found.exclude(Failure(ErrorKind.NODE, "node w1 has no Rung", "w1"))
    assert found.selector()["ray.io/node-id"] == "!in(w1, w2)"
    found.exclude(Failure(ErrorKind.NODE, "node w4 has no Rung", "w4"))
    assert not found.any_left({"CPU": 1.0})
