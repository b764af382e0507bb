"""A slot on a node that cannot be used: whose fault it is, and that the trial loses at most an epoch."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import pytest
import torch
from ray.tune import PlacementGroupFactory

from search_spaces.protocol import ErrorKind
from search_spaces.storage.base import UNUSABLE_ERRNOS
from search_spaces.storage.folder import FolderArtifacts
from tests.support.trial_slots import SPEC, begun, names
from workers import nodes
from workers.failures.classification import Failure, TrialError
from workers.training import loop
from workers.trial.worker import TrialWorker


def test_an_unusable_gpu_is_an_error_not_a_cpu(
    config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("CUDA driver initialization failed\nYou might not have a GPU.")

    monkeypatch.setattr(torch.cuda, "init", broken)
    slot = begun(config(resources={"gpus_per_trial": 0.5}))
    with pytest.raises(TrialError) as raised:
        slot.step()
    why = "has no usable CUDA device, though a process holds 0.5 GPUs of it: CUDA driver initialization failed"
    assert raised.value.failure == Failure(ErrorKind.NODE, f"node {platform.node()} {why}"), "another node may have one"


def test_a_node_that_does_not_see_the_storage_is_an_error_of_the_node(
    config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "VISIBLE_PAUSE_S", 0.0)
    told = config()
    slot = begun(told | {"marker": "that of the service"})
    with pytest.raises(TrialError) as raised:
        slot.step()
    assert raised.value.failure.kind is ErrorKind.NODE
    assert f"sees RUNG_STORAGE_ROOT {Path(told['storage']).parent}, but " in raised.value.failure.reason
    assert names(told) == {SPEC}, "nothing is written, not even a log"
    assert Path(told["storage"], "marker").write_text("that of the service")
    assert slot.step()["epoch"] == 1
    Path(told["storage"]).rename(tmp_path / "gone")
    with pytest.raises(TrialError) as raised:
        slot.step()
    assert raised.value.failure.kind is ErrorKind.NODE, "also in the middle of a trial"


def test_a_node_without_the_data_is_an_error_of_the_node(config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    slot = begun(config(dataset={"name": "image_folder", "path": "pictures"}))
    with pytest.raises(TrialError) as raised:
        slot.step()
    failure = raised.value.failure
    assert (failure.kind, failure.reason) == (
        ErrorKind.DATA,
        f"node {platform.node()} cannot load the data set: image_folder: there is no folder {tmp_path}/data/pictures; "
        f"put images into {tmp_path}/data/pictures/<class>/<file>",
    )


def test_a_node_whose_cache_is_full_is_an_error_of_the_node(
    config: Callable[..., dict[str, Any]], small_disk: Path
) -> None:
    (small_disk / "other").write_bytes(bytes(1_000_000))
    slot = begun(config() | {"cache_root": str(small_disk)})
    with pytest.raises(TrialError) as raised:
        slot.step()
    failure = raised.value.failure
    assert failure.kind is ErrorKind.DISK_FULL
    assert failure.reason.startswith(
        f"node {platform.node()} cannot load the data set: no space left for decoded data in the cache {small_disk} "
    )


def test_a_storage_that_became_read_only_is_an_error_of_the_node_and_costs_an_epoch(
    config: Callable[..., dict[str, Any]], small_disk: Path
) -> None:
    told = config(name="disk/trial", search_space={"model": {"kind": "cnn", "width": 2, "depth": 1}})
    slot = begun(told)
    slot.step()
    slot.cleanup()  # a log that is open for writing would refuse the remount
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    slot = begun(told)
    slot.step()  # the result of the first epoch again, which needs no writing
    with pytest.raises(TrialError) as raised:
        slot.step()
    failure = raised.value.failure
    assert failure.kind is ErrorKind.NODE
    assert failure.reason.startswith(
        f"node {platform.node()} cannot use RUNG_STORAGE_ROOT {small_disk}: [Errno 30] Read-only file system: "
    )
    slot.cleanup()
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    slot = begun(told)
    assert [slot.step()["epoch"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("number", sorted(UNUSABLE_ERRNOS))
def test_checkpoints_that_the_storage_does_not_give_are_not_replaced_by_a_new_training(
    config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    told = config()
    slot = begun(told)
    first = slot.step()
    read = FolderArtifacts.open_reader

    def fail(self: FolderArtifacts, name: PurePath) -> BinaryIO:
        if name.suffix == ".pt":
            raise OSError(number, os.strerror(number), str(name))
        return read(self, name)

    with monkeypatch.context() as patched:
        patched.setattr(FolderArtifacts, "open_reader", fail)
        with pytest.raises(TrialError) as raised:
            begun(told).step()
    assert raised.value.failure.kind is ErrorKind.NODE
    assert begun(told).step() == {**first, "resumed_after": 1}


def test_a_link_in_the_place_of_the_folder_of_trials_is_no_error_of_the_code(
    config: Callable[..., dict[str, Any]],
) -> None:
    told = config()
    trials = Path(told["storage"]) / "trials"
    elsewhere = trials.rename(trials.with_name("elsewhere"))
    trials.symlink_to(elsewhere)
    with pytest.raises(TrialError) as raised:
        begun(told).step()
    assert raised.value.failure.kind is ErrorKind.NODE
    assert f"{trials}/" in raised.value.failure.reason
    trials.unlink()
    elsewhere.rename(trials)
    assert begun(told).step()["epoch"] == 1


def test_a_file_of_the_users_own_that_cannot_be_used_is_an_error_of_the_code(
    config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/their/own")

    slot = begun(config())
    monkeypatch.setattr(loop.Training, "run_epoch", refuse)
    with pytest.raises(TrialError) as raised:
        slot.step()
    assert raised.value.failure.kind is ErrorKind.CODE


def test_a_trial_is_placed_on_a_node_that_may_be_used() -> None:
    used: dict[str, Any] = {"resources": {"CPU": 2.0, "GPU": 0.0}, "node": ""}
    free = TrialWorker.default_resource_request(used | {"selector": {}})
    assert free == PlacementGroupFactory([{"CPU": 2.0}])
    selector = {"ray.io/node-id": f"!in({'a' * 56}, {'b' * 56})", "zone": "a"}
    bound = TrialWorker.default_resource_request(used | {"selector": selector})
    assert bound == PlacementGroupFactory([{"CPU": 2.0}], bundle_label_selector=[selector])
    preferring = TrialWorker.default_resource_request(used | {"selector": selector, "node": "c" * 56})
    assert preferring.strategy == "STRICT_PACK", "Ray prefers a node with no other strategy"
    assert preferring not in (free, bound)
