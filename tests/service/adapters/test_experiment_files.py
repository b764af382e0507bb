"""The files of an experiment: what a driver finds at its start, logs in chunks, kinds, sizes and removal."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path, PurePath

import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.layout import ExperimentFolder
from search_spaces.protocol import LaunchConfig
from service.adapters import experiment_files
from service.adapters.experiment_files import MAX_CHUNK_BYTES, ExperimentFiles, FileKind
from tests.support.contracts.launcher import launch_config

TEXT = "één – 語\U0001f600 end"


@pytest.fixture
def folder(tmp_path: Path) -> ExperimentFolder:
    return ExperimentFolder(tmp_path / "one")


@pytest.fixture
def files(folder: ExperimentFolder) -> ExperimentFiles:
    return ExperimentFiles(str(folder.root))


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_the_driver_finds_its_files_and_only_the_owner_can_read_the_token(
    files: ExperimentFiles, folder: ExperimentFolder, tmp_path: Path
) -> None:
    launch = launch_config(tmp_path, attempt=2).model_copy(update={"marker": "seen"})
    for name in ("first", "second"):
        files.write_launch(launch, ExperimentSpec(name=name).model_dump(mode="json"))
        assert ExperimentSpec.model_validate_json(folder.spec.read_text()).name == name
    assert LaunchConfig.model_validate_json(folder.launch_config(2).read_text()) == launch
    assert folder.marker.read_text() == launch.marker
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.root.iterdir()} == {
        "launch-a2.json": 0o600,
        "marker": 0o600,
        "spec.json": 0o600,
    }
    files.remove_launch_config(2)
    files.remove_launch_config(2)
    assert sorted(path.name for path in folder.root.iterdir()) == ["marker", "spec.json"]


def test_a_full_disk_leaves_the_previous_files(
    files: ExperimentFiles, folder: ExperimentFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    launch = launch_config(tmp_path)
    files.write_launch(launch, {"name": "before"})
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        files.write_launch(launch, {"name": "after"})
    assert json.loads(folder.spec.read_text()) == {"name": "before"}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("journal.jsonl", FileKind.JOURNAL),
        ("tracking.json", FileKind.JOURNAL),
        ("journal.copy.jsonl", FileKind.JOURNAL),
        ("journal.damaged-1", FileKind.DAMAGED),
        ("model/data/model.pth", FileKind.MODEL),
        ("pictures/lr.png", FileKind.PLOTS),
        ("logs/driver-a1.log", FileKind.LOGS),
        ("trials/00012/trial.log", FileKind.LOGS),
        ("trials/00012/last.pt", FileKind.CHECKPOINTS),
        ("trials/00012/best.pt.part", FileKind.CHECKPOINTS),
        ("trials/00012/spec.json", FileKind.OTHER),
        ("launch-a1.json", FileKind.OTHER),
    ],
)
def test_the_kind_of_a_file_follows_from_its_name(path: str, kind: FileKind) -> None:
    assert experiment_files.file_kind(PurePath(path)) is kind


def test_sizes_count_each_file_once(files: ExperimentFiles, folder: ExperimentFolder) -> None:
    assert files.sizes() == dict.fromkeys(FileKind, 0)
    write(folder.trial(0).last, b"x" * 1000)
    os.link(folder.trial(0).last, folder.trial(0).best)
    write(folder.journal, b"x" * 7)
    assert files.sizes() == {**dict.fromkeys(FileKind, 0), FileKind.CHECKPOINTS: 1000, FileKind.JOURNAL: 7}


@pytest.mark.parametrize(
    ("policy", "best", "winner_registered", "kept"),
    [
        ("best", 1, True, {"1/best.pt"}),
        ("best", None, False, set()),
        ("last", 1, True, {"0/last.pt", "1/last.pt", "1/best.pt"}),
        ("none", 1, False, {"1/best.pt"}),
        ("none", 1, True, set()),
    ],
)
def test_the_checkpoint_policy_decides_what_is_removed(
    files: ExperimentFiles,
    folder: ExperimentFolder,
    policy: str,
    best: int | None,
    winner_registered: bool,
    kept: set[str],
) -> None:
    names = {"last.pt", "previous.pt", "best.pt", "best.pt.7.part", "spec.json", "trial.log"}
    for trial in (0, 1):
        for name in names:
            write(folder.trial(trial).root / name, b"12")
    write(folder.root / "best.pt", b"")
    freed = files.remove_checkpoints(policy, best, winner_registered)
    left = {f"{path.parent.name[-1]}/{path.name}" for path in folder.root.glob("trials/*/*")}
    assert left == kept | {f"{trial}/{name}" for trial in (0, 1) for name in ("spec.json", "trial.log")}
    assert freed == 2 * (8 - len(kept))
    assert (folder.root / "best.pt").exists()


@pytest.mark.parametrize("limit", [4, 5, 7, 100])
def test_chunks_join_to_the_whole_log_and_split_no_character(
    files: ExperimentFiles, folder: ExperimentFolder, limit: int
) -> None:
    write(folder.driver_log(1), TEXT.encode())
    texts, offset = [], 0
    while offset < len(TEXT.encode()):
        chunk = files.driver_log(1, offset, limit, final=True)
        assert chunk.next_offset > offset
        texts.append(chunk.text)
        offset = chunk.next_offset
    assert "".join(texts) == TEXT


def test_an_incomplete_character_is_left_to_the_next_chunk_unless_the_log_is_final(
    files: ExperimentFiles, folder: ExperimentFolder
) -> None:
    write(folder.trial(3).log, b"a\xff" + "語".encode()[:2])
    growing = files.trial_log(3, 0, 100, final=False)
    assert (growing.text, growing.next_offset, growing.size) == ("a\ufffd", 2, 4)
    ended = files.trial_log(3, 0, 100, final=True)
    assert (ended.text, ended.next_offset) == ("a\ufffd\ufffd", 4)
    beyond = files.trial_log(3, 50, 100, final=True)
    assert (beyond.text, beyond.next_offset) == ("", 50)
    assert files.trial_log(3, 2**70, 100, final=True).next_offset == 2**70, "no file system seeks as far"


def test_the_end_of_a_log_is_empty_where_it_cannot_be_read(files: ExperimentFiles, folder: ExperimentFolder) -> None:
    assert files.driver_log_end(1, 5) == ""
    write(folder.driver_log(1), b"first\nlast\xff\n")
    assert files.driver_log_end(1, 6) == "last\ufffd\n"
    assert files.driver_log_end(1, 600) == "first\nlast\ufffd\n"


def test_a_trial_s_spec_is_read_up_to_a_limit(files: ExperimentFiles, folder: ExperimentFolder) -> None:
    assert files.trial_spec(0) is None
    for content, read in ((b"{}", "{}"), (b"\xff", None), (b"x" * (MAX_CHUNK_BYTES + 1), "x" * MAX_CHUNK_BYTES)):
        write(folder.trial(0).spec, content)
        assert files.trial_spec(0) == read


def test_an_experiment_can_be_removed_twice(files: ExperimentFiles, folder: ExperimentFolder) -> None:
    files.remove()
    write(folder.root / "x", b"")
    files.remove()
    assert not folder.root.exists()
