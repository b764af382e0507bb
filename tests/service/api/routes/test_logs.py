"""Logs over REST, from the storage and, where a driver left none there, from Ray."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from search_spaces.storage.folder import FolderArtifacts
from service.adapters.experiment_files import ExperimentFiles, FileKind
from service.settings import Settings
from tests.support.world import World

pytestmark = pytest.mark.stores


def write(settings: Settings, experiment_id: str, name: str, data: bytes) -> Path:
    path = Path(settings.storage_root) / experiment_id / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def logs(world: World, experiment_id: str, of: str = "", status: int = 200, **query: Any) -> Any:
    answer = world.client.get(f"/api/v1/experiments/{experiment_id}{of}/logs", params=query)
    assert answer.status_code == status, answer.text
    return answer.json() if status == 200 else answer.json()["detail"]


def test_the_log_of_a_driver_is_read_as_it_grows(world: World, settings: Settings) -> None:
    one = world.started()
    path = write(settings, one, "logs/driver-a1.log", b"first\n")
    piece = logs(world, one)
    assert piece == {"text": "first\n", "offset": 0, "next_offset": 6, "size": 6, "complete": False, "attempt": 1}
    with path.open("ab") as log:
        log.write("zweite Größe\n".encode() * 2)
    piece = logs(world, one, offset=6, limit=16)
    assert piece["text"] == "zweite Größe\nz"[:14]
    world.beat(one, {"phase": "completed"})
    rest = logs(world, one, offset=piece["next_offset"])
    assert piece["text"] + rest["text"] == "zweite Größe\n" * 2
    assert rest["complete"]
    assert rest["next_offset"] == rest["size"] == path.stat().st_size


def test_each_attempt_has_a_log_of_its_own(world: World, settings: Settings) -> None:
    one = world.started()
    write(settings, one, "logs/driver-a1.log", b"one")
    world.beat(one, {"phase": "failed"})
    world.client.post(f"/api/v1/experiments/{one}/resume")
    world.reconciler.reconcile_once()
    write(settings, one, "logs/driver-a2.log", b"two")
    assert logs(world, one)["text"] == "two"
    assert (logs(world, one, attempt=1)["text"], logs(world, one, attempt=1)["complete"]) == ("one", True)
    assert "no attempt 3; it has 2 so far" in logs(world, one, status=404, attempt=3)


def test_the_output_of_a_driver_without_a_log_file_is_read_from_ray(world: World) -> None:
    one = world.started()
    assert "has no log yet" in logs(world, one, status=404)
    world.launcher.printed[f"exp-{one}-a1"] = "ModuleNotFoundError: größer"
    assert logs(world, one)["text"] == "ModuleNotFoundError: größer"
    world.launcher.unreachable = True
    assert "Ray's copy of its output cannot be read; the log of the service says why" in logs(world, one, status=503)


def test_an_experiment_without_a_driver_has_no_log_and_says_why(world: World) -> None:
    one = world.submit(resources={"cpus_per_trial": 256})
    world.reconciler.reconcile_once()
    assert "waiting for a larger node" in logs(world, one, status=404)


def test_the_log_of_a_trial_outlives_it(world: World, settings: Settings) -> None:
    one = world.started()
    assert "has no trial 3" in logs(world, one, "/trials/3", status=404)
    world.beat(one, {"phase": "searching", "trials": [world.line(3)]})
    assert "is RUNNING and has no log yet" in logs(world, one, "/trials/3", status=404)
    write(settings, one, "trials/00003/trial.log", b"epoch 1\n\xff")
    assert logs(world, one, "/trials/3") == {
        "text": "epoch 1\n\ufffd",
        "offset": 0,
        "next_offset": 9,
        "size": 9,
        "complete": False,
        "attempt": None,
    }
    world.beat(one, {"phase": "searching", "trials": [world.line(3, state="COMPLETED")]})
    assert logs(world, one, "/trials/3")["complete"]


def test_the_log_of_a_trial_is_complete_when_its_driver_is_gone(world: World, settings: Settings) -> None:
    one = world.started()
    write(settings, one, "trials/00000/trial.log", b"epoch 1\n")
    world.beat(one, {"phase": "searching", "trials": [world.line(0)]})
    assert not logs(world, one, "/trials/0")["complete"]
    world.post(one, "pause")
    world.beat(one, {"phase": "paused"})
    assert world.client.get(f"/api/v1/experiments/{one}/trials/0").json()["state"] == "RUNNING"
    assert logs(world, one, "/trials/0")["complete"]


def test_a_log_that_cannot_be_read_is_unavailable(world: World, settings: Settings) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching", "trials": [world.line(0)]})
    for name in ("logs/driver-a1.log", "trials/00000/trial.log"):
        (Path(settings.storage_root) / one / name).mkdir(parents=True)
    assert f"the log of exp-{one}-a1 cannot be read; the log of the service says why" in logs(world, one, status=503)
    assert f"the log of trial 0 of experiment {one} cannot be read; " in logs(world, one, "/trials/0", status=503)


def test_a_link_in_the_place_of_a_log_is_not_followed(world: World, settings: Settings, tmp_path: Path) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching", "trials": [world.line(0)]})
    (tmp_path / "secret").write_text("secret")
    for name in ("logs/driver-a1.log", "trials/00000/trial.log"):
        path = Path(settings.storage_root) / one / name
        path.parent.mkdir(parents=True)
        path.symlink_to(tmp_path / "secret")
    for of in ("", "/trials/0"):
        assert "cannot be read" in logs(world, one, of, status=503)


def test_the_largest_offset_reads_nothing(world: World, settings: Settings) -> None:
    one = world.started()
    world.beat(one, {"phase": "searching", "trials": [world.line(0)]})
    for of, name in (("", "logs/driver-a1.log"), ("/trials/0", "trials/00000/trial.log")):
        write(settings, one, name, b"first\n")
        piece = logs(world, one, of, offset=2**62 - 1)
        assert (piece["text"], piece["next_offset"], piece["size"]) == ("", 2**62 - 1, 6)


@pytest.mark.parametrize("query", [{"offset": -1}, {"limit": 0}, {"limit": 2**30}, {"attempt": 0}, {"atempt": 1}])
def test_a_bad_offset_limit_or_attempt_is_refused(world: World, query: dict[str, int]) -> None:
    one = world.started()
    logs(world, one, status=422, **query)


def test_disk_use_is_counted_by_kind_of_file(world: World, settings: Settings) -> None:
    one = world.started()
    address = f"/api/v1/experiments/{one}/storage"
    before = ExperimentFiles(f"{settings.storage_root}/{one}").sizes()
    write(settings, one, "trials/00000/last.pt", b"x" * 500)
    write(settings, one, "logs/driver-a1.log", b"x" * 20)
    found = world.client.get(address).json()
    assert (found["folder"], found["total_bytes"]) == (
        str(Path(settings.storage_root) / one),
        520 + before[FileKind.OTHER],
    )
    assert found["bytes_by_kind"] == {
        "checkpoints": 500, "model": 0, "logs": 20, "pictures": 0, "journal": 0, "damaged": 0,
        "other": before[FileKind.OTHER],
    }  # fmt: skip
    write(settings, one, "logs/driver-a1.log", b"x" * 20)
    assert world.client.get(address).json() == found, "files are counted once a minute"


def test_files_that_cannot_be_counted_are_a_503(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one = world.started()

    def fail(*_: Any) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", "/mnt/secret")

    with monkeypatch.context() as broken:
        broken.setattr(FolderArtifacts, "list", fail)
        answer = world.client.get(f"/api/v1/experiments/{one}/storage")
    assert answer.status_code == 503
    assert answer.json()["detail"] == f"the files of {one} cannot be counted; the log of the service says why"
    assert world.client.get(f"/api/v1/experiments/{one}/storage").status_code == 200
