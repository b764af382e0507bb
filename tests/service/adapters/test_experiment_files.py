"""The files of an experiment: their kinds, their sizes, logs in chunks, and removal."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

import pytest

from service.adapters import experiment_files
from service.adapters.experiment_files import ExperimentFiles, FileKind

TEXT = "één – 語\U0001f600 end"


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
def test_the_kind_of_a_file_follows_from_its_path(path: str, kind: FileKind) -> None:
    assert experiment_files.file_kind(PurePath(path)) is kind


def test_sizes_count_each_file_once(tmp_path: Path) -> None:
    found = ExperimentFiles(tmp_path / "none")
    assert found.sizes() == dict.fromkeys(FileKind, 0)
    folder = tmp_path / "one"
    (folder / "trials" / "00000").mkdir(parents=True)
    (folder / "trials" / "00000" / "last.pt").write_bytes(b"x" * 1000)
    os.link(folder / "trials" / "00000" / "last.pt", folder / "trials" / "00000" / "best.pt")
    (folder / "journal.jsonl").write_bytes(b"x" * 7)
    assert ExperimentFiles(folder).sizes() == {
        **dict.fromkeys(FileKind, 0),
        FileKind.CHECKPOINTS: 1000,
        FileKind.JOURNAL: 7,
    }


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
    tmp_path: Path, policy: str, best: int | None, winner_registered: bool, kept: set[str]
) -> None:
    names = {"last.pt", "previous.pt", "best.pt", "best.pt.7.part", "spec.json", "trial.log"}
    for trial in ("00000", "00001"):
        (tmp_path / "trials" / trial).mkdir(parents=True)
        for name in names:
            (tmp_path / "trials" / trial / name).write_text("12")
    (tmp_path / "best.pt").touch()
    freed = ExperimentFiles(tmp_path).remove_checkpoints(policy, best, winner_registered)
    left = {f"{path.parent.name[-1]}/{path.name}" for path in tmp_path.glob("trials/*/*")}
    assert left == kept | {f"{trial}/{name}" for trial in (0, 1) for name in ("spec.json", "trial.log")}
    assert freed == 2 * (8 - len(kept))
    assert (tmp_path / "best.pt").exists()


@pytest.mark.parametrize("limit", [4, 5, 7, 100])
def test_chunks_join_to_the_whole_log_and_split_no_character(tmp_path: Path, limit: int) -> None:
    log = tmp_path / "log"
    log.write_text(TEXT)
    said, offset = [], 0
    while offset < log.stat().st_size:
        piece = experiment_files.read_chunk(log, offset, limit, final=True)
        assert piece.next_offset > offset
        said.append(piece.text)
        offset = piece.next_offset
    assert "".join(said) == TEXT


def test_an_incomplete_character_is_left_to_the_next_chunk_unless_the_log_is_final(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a\xff" + "語".encode()[:2])
    growing = experiment_files.read_chunk(log, 0, 100, final=False)
    assert (growing.text, growing.next_offset, growing.size) == ("a\ufffd", 2, 4)
    ended = experiment_files.read_chunk(log, 0, 100, final=True)
    assert (ended.text, ended.next_offset) == ("a\ufffd\ufffd", 4)
    beyond = experiment_files.read_chunk(log, 50, 100, final=True)
    assert (beyond.text, beyond.next_offset) == ("", 50)
    assert experiment_files.read_chunk(log, 2**70, 100, final=True).next_offset == 2**70, "no file system seeks as far"


def test_a_folder_can_be_removed_twice(tmp_path: Path) -> None:
    found = ExperimentFiles(tmp_path / "one")
    found.remove()
    found.folder.mkdir()
    (found.folder / "x").touch()
    found.remove()
    assert not found.folder.exists()
