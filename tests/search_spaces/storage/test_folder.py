"""Folder storage: the contract of a storage backend, and what only files can do."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path, PurePath
from typing import Any

import pytest

from search_spaces.storage.base import MISPLACED_ERRNOS, NotAFileError, check_root, open_storage
from search_spaces.storage.folder import FolderArtifacts, FolderStopSignal, FolderStorage
from tests.support.contracts.storage import StorageContract

LOG = PurePath("trials/00000/trial.log")


class TestFolderStorage(StorageContract):
    @pytest.fixture
    def root(self, tmp_path: Path) -> str:
        return str(tmp_path / "deep" / "storage")


@pytest.fixture
def artifacts(tmp_path: Path) -> FolderArtifacts:
    (tmp_path / "x").mkdir()
    return FolderArtifacts(tmp_path / "x")


def test_an_address_names_its_backend(tmp_path: Path) -> None:
    assert open_storage(str(tmp_path)) == open_storage(f"folder://{tmp_path}") == FolderStorage(tmp_path)
    for call in (open_storage, check_root):
        with pytest.raises(ValueError, match=r"must be one of .*folder.* \(got 'tape'\)"):
            call("tape://x")


def test_a_root_is_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    assert check_root("here") == check_root("folder://here") == check_root(f"{tmp_path}/here/") == f"{tmp_path}/here"
    assert check_root("~/rung") == "/home/ada/rung"
    with pytest.raises(ValueError, match="must be a folder that can be found"):
        check_root("~nobody-of-this-name/rung")


@pytest.mark.parametrize(("private", "mode"), [(True, 0o600), (False, 0o644)])
def test_a_secret_is_for_its_owner_only(artifacts: FolderArtifacts, tmp_path: Path, private: bool, mode: int) -> None:
    umask = os.umask(0o022)
    artifacts.write(PurePath("launch-a1.json"), b"{}", private=private)
    os.umask(umask)
    assert (tmp_path / "x" / "launch-a1.json").stat().st_mode & 0o777 == mode


def test_an_appended_file_is_for_its_owner_only(artifacts: FolderArtifacts, tmp_path: Path) -> None:
    artifacts.open_appender(LOG).close()
    assert (tmp_path / "x" / LOG).stat().st_mode & 0o777 == 0o600


def test_a_file_with_two_names_counts_once(artifacts: FolderArtifacts, tmp_path: Path) -> None:
    artifacts.write(PurePath("a"), b"1234")
    os.link(tmp_path / "x" / "a", tmp_path / "x" / "b")
    assert sum(item.size_bytes for item in artifacts.list()) == 4


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(
    artifacts: FolderArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("trials/00000/last.pt", "trials/00001/last.pt"):
        artifacts.write(PurePath(name), b"1234")
    read, broken = os.scandir, tmp_path / "x" / "trials" / "00001"

    def fail(code: int) -> None:
        def scandir(path: str) -> Any:
            if str(path) == str(broken):
                raise OSError(code, os.strerror(code), path)
            return read(path)

        monkeypatch.setattr(os, "scandir", scandir)

    fail(errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        list(artifacts.list())
    fail(errno.ENOENT)  # removed meanwhile
    assert [item.name.parent.name for item in artifacts.list()] == ["00000"]


def test_an_experiment_whose_folder_cannot_be_opened_is_not_an_empty_one(
    artifacts: FolderArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> int:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as broken:
        broken.setattr(os, "open", fail)
        with pytest.raises(OSError, match="Stale"):
            list(artifacts.list())


@pytest.mark.parametrize("linked", ["trials", "trials/00000", "trials/00000/trial.log"])
def test_no_link_is_followed_out_of_an_experiment(artifacts: FolderArtifacts, tmp_path: Path, linked: str) -> None:
    outside = tmp_path / "outside"
    (outside / LOG).parent.mkdir(parents=True)
    (outside / LOG).write_text("secret")
    link = tmp_path / "x" / linked
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside / linked)
    for call in (artifacts.open_reader, artifacts.open_appender):
        with pytest.raises(NotAFileError, match=str(tmp_path / "x" / LOG)):
            call(LOG)
    assert list(artifacts.list(PurePath("trials"))) == [] or linked != "trials"
    for item in artifacts.list():
        artifacts.remove(item.name)
    FolderStorage(tmp_path / "x").remove()
    assert (outside / LOG).read_text() == "secret"


@pytest.mark.parametrize("linked", ["trials", "trials/00000"])
def test_nothing_is_written_through_a_link_in_the_place_of_a_folder(
    artifacts: FolderArtifacts, tmp_path: Path, linked: str
) -> None:
    outside = tmp_path / "outside"
    (outside / LOG).parent.mkdir(parents=True)
    (outside / LOG).write_text("theirs")
    (outside / LOG).with_name("stop").write_bytes(b"")
    before = {path: path.is_file() and path.read_bytes() for path in outside.rglob("*")}
    link = tmp_path / "x" / linked
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside / linked)
    artifacts.write(PurePath("spec.json"), b"ours")

    def replace_folder(name: PurePath) -> None:
        with artifacts.replace_folder(name) as folder:
            (folder / "ours").touch()

    for refused in (
        lambda: artifacts.write(LOG, b"ours"),
        lambda: artifacts.write(LOG.with_name("new"), b"ours"),
        lambda: artifacts.write(LOG.with_name("deep") / "new", b"ours"),
        lambda: artifacts.rotate(PurePath("spec.json"), b"ours", LOG),
        lambda: artifacts.rotate(LOG, b"ours", PurePath("spec.json")),
        lambda: artifacts.remove(LOG),
        lambda: replace_folder(LOG.with_name("model")),
        lambda: FolderStorage(tmp_path / "x").stop_signal(0).ask(),
    ):
        with pytest.raises(NotAFileError, match=f"{tmp_path}/x/trials"):
            refused()
    assert not artifacts.exists(LOG)
    assert list(artifacts.list(PurePath("trials/00000"))) == []
    with pytest.raises(FileNotFoundError), artifacts.local_folder(PurePath("trials/00000")):
        pass
    assert {path: path.is_file() and path.read_bytes() for path in outside.rglob("*")} == before
    with artifacts.open_reader(PurePath("spec.json")) as spec:
        assert spec.read() == b"ours"


def test_a_link_in_the_place_of_a_file_is_replaced(artifacts: FolderArtifacts, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    (tmp_path / "x" / "spec.json").symlink_to(outside)
    artifacts.write(PurePath("spec.json"), b"new")
    assert (outside.read_text(), (tmp_path / "x" / "spec.json").read_text()) == ("kept", "new")


def test_the_root_may_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk" / "one").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    artifacts = open_storage(f"{tmp_path}/link/one").artifacts
    artifacts.write(LOG, b"text")
    with artifacts.open_reader(LOG) as log:
        assert log.read() == b"text"


def test_a_named_pipe_does_not_block_its_reader(artifacts: FolderArtifacts, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x" / "spec.json")
    with pytest.raises(NotAFileError, match="must be a regular file"):
        artifacts.open_reader(PurePath("spec.json"))
    with pytest.raises(NotAFileError):
        artifacts.open_appender(PurePath("spec.json"))


def test_what_is_in_the_place_of_a_file_is_named_as_misplaced(artifacts: FolderArtifacts, tmp_path: Path) -> None:
    """By its number, for those who only see that: a named pipe, a link to a process's memory, a socket."""
    path = tmp_path / "x" / "spec.json"
    with socket.socket(socket.AF_UNIX) as listening:
        for make in (
            lambda: os.mkfifo(path),
            lambda: path.symlink_to("/proc/self/mem"),
            lambda: listening.bind(str(path)),
        ):
            make()
            for call in (artifacts.open_reader, artifacts.open_appender):
                with pytest.raises(NotAFileError) as raised:
                    call(PurePath("spec.json"))
                assert raised.value.errno in MISPLACED_ERRNOS
            path.unlink()


def test_a_named_pipe_in_the_place_of_a_stop_signal_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stop")
    signal = FolderStopSignal(tmp_path / "stop")
    with pytest.raises(OSError, match="stop"):
        signal.ask()
    assert not signal.asked()


@pytest.mark.parametrize("target", ["outside", "nothing", "/proc/self/mem"])
def test_a_link_in_the_place_of_a_folder_is_replaced_and_never_read(
    artifacts: FolderArtifacts, tmp_path: Path, target: str
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "theirs").write_text("kept")
    (tmp_path / "x" / "model").symlink_to(tmp_path / target)
    with pytest.raises(FileNotFoundError), artifacts.local_folder(PurePath("model")):
        pass
    with artifacts.replace_folder(PurePath("model")) as folder:
        (folder / "ours").write_text("new")
    with artifacts.local_folder(PurePath("model")) as folder:
        assert [path.name for path in folder.iterdir()] == ["ours"]
    assert (tmp_path / "outside" / "theirs").read_text() == "kept"


def test_a_folder_in_the_place_of_a_file_is_no_file(artifacts: FolderArtifacts, tmp_path: Path) -> None:
    (tmp_path / "x" / "spec.json").mkdir()
    for call in (artifacts.open_reader, artifacts.open_appender):
        with pytest.raises(NotAFileError):
            call(PurePath("spec.json"))


def test_a_link_in_the_place_of_an_experiment_is_never_followed(tmp_path: Path) -> None:
    """What it leads to stays as it is: another experiment, or the home of a person."""
    target, root = tmp_path / "other", tmp_path / "x"
    other = open_storage(str(target))
    other.create()
    other.artifacts.write(PurePath("spec.json"), b"theirs")
    writer = other.journal.open_writer(1)
    writer.append({"n": 1})
    writer.close()
    before = {path: path.read_bytes() for path in target.iterdir()}
    root.symlink_to(target)
    storage = open_storage(str(root))
    for refused in (
        storage.create,
        lambda: storage.artifacts.write(PurePath("spec.json"), b"ours"),
        lambda: storage.artifacts.rotate(PurePath("spec.json"), b"ours", PurePath("old.json")),
        lambda: storage.artifacts.open_reader(PurePath("spec.json")),
        lambda: storage.artifacts.open_appender(PurePath("spec.json")),
        lambda: storage.journal.open_writer(2),
    ):
        with pytest.raises(NotAFileError):
            refused()
    assert not storage.artifacts.exists(PurePath("spec.json"))
    assert not storage.journal.exists()
    assert list(storage.artifacts.list()) == []
    storage.artifacts.remove(PurePath("spec.json"))
    storage.remove()
    assert not root.is_symlink()
    assert {path: path.read_bytes() for path in target.iterdir()} == before


@pytest.mark.parametrize("what", ["a link to nothing", "a file", "a named pipe"])
def test_what_is_in_the_place_of_an_experiment_is_removed(tmp_path: Path, what: str) -> None:
    root = tmp_path / "x"
    {
        "a link to nothing": lambda: root.symlink_to(tmp_path / "nothing"),
        "a file": root.touch,
        "a named pipe": lambda: os.mkfifo(root),
    }[what]()
    open_storage(str(root)).remove()
    assert not os.path.lexists(root)


def test_two_requests_to_stop_within_one_tick_of_the_clock_are_two(tmp_path: Path) -> None:
    path = tmp_path / "stop"
    driver, worker = FolderStopSignal(path), FolderStopSignal(path)
    for _ in range(2):
        driver.ask()
        os.utime(path, (0, 0))
        assert worker.asked()
        worker.clear()
        assert not worker.asked()
