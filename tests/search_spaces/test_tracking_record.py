"""The record of MLflow's runs: what was written is read back, and any other content counts as none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from search_spaces.storage import base
from search_spaces.storage.folder import FolderArtifacts
from search_spaces.tracking_record import TrackingRecord

STORED = {"offset": 812, "mark": 77, "writer": 2, "experiment": "4", "parent": "p0", "runs": {"0": "r0", "12": "r12"}}
RECORD = TrackingRecord(offset=812, mark=77, writer=2, experiment="4", parent="p0", runs={0: "r0", 12: "r12"})

ANYTHING: dict[str, bytes] = {
    "nothing": b"",
    "half of it": b'{"offset": 812, "runs": {"0"',
    "no text": b"\xff\xfe\0",
    "half a character": b'{"offset":0,"mark":0,"writer":1,"experiment":"\\ud800","parent":null,"runs":{}}',
    "a list": b"[]",
    "null": b"null",
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"runs":' * 200_000,
    "many digits": b'{"offset":' + b"9" * 100_000 + b"}",
}
VALUES: list[tuple[str, Any]] = [
    *(("offset", value) for value in ("abc", -5, None, 1e308, 1.5, 10**30, 2**63, True, [], float("inf"))),
    *(("writer", value) for value in ("1", -1, None, 10**30)),
    *(("mark", value) for value in ("x", 2.5, [])),
    *(("experiment", value) for value in (4, [], {})),
    ("parent", 7),
    *(
        ("runs", value)
        for value in (None, [], {"x": "r"}, {"-1": "r"}, {"0": None}, {"0": {"deep": 1}}, {"9" * 99: "r"})
    ),
]


@pytest.fixture
def artifacts(tmp_path: Path) -> FolderArtifacts:
    return FolderArtifacts(tmp_path)


def test_what_was_written_is_read_back(artifacts: FolderArtifacts, tmp_path: Path) -> None:
    assert TrackingRecord.read(artifacts, "e1") is None
    RECORD.write(artifacts)
    assert TrackingRecord.read(artifacts, "e1") == RECORD
    assert json.loads((tmp_path / "tracking.json").read_text()) == STORED | {"of": None}


def test_records_of_earlier_versions_are_read(artifacts: FolderArtifacts, tmp_path: Path) -> None:
    without_mark = {name: value for name, value in STORED.items() if name != "mark"}
    for stored, mark in ((STORED | {"later": [1]}, 77), (STORED | {"mark": None}, None), (without_mark, None)):
        (tmp_path / "tracking.json").write_text(json.dumps(stored))
        assert TrackingRecord.read(artifacts, "e1") == RECORD.model_copy(update={"mark": mark})


@pytest.mark.parametrize("content", ANYTHING)
def test_content_that_is_no_record_counts_as_none(artifacts: FolderArtifacts, tmp_path: Path, content: str) -> None:
    (tmp_path / "tracking.json").write_bytes(ANYTHING[content])
    assert TrackingRecord.read(artifacts, "e1") is None


@pytest.mark.parametrize(("name", "value"), VALUES)
def test_a_value_out_of_place_makes_it_no_record(
    artifacts: FolderArtifacts, tmp_path: Path, name: str, value: Any
) -> None:
    (tmp_path / "tracking.json").write_text(json.dumps(STORED | {name: value}))
    assert TrackingRecord.read(artifacts, "e1") is None


def test_no_more_than_the_limit_is_read(
    artifacts: FolderArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.dumps(STORED)
    path = tmp_path / "tracking.json"
    path.write_text(content)
    monkeypatch.setattr(base, "MAX_DOCUMENT_BYTES", len(content))
    assert TrackingRecord.read(artifacts, "e1") == RECORD
    path.write_text(content + " ")
    assert TrackingRecord.read(artifacts, "e1") is None
    os.truncate(path, 2**40)  # as much as no machine has memory
    assert TrackingRecord.read(artifacts, "e1") is None


def test_the_record_of_another_experiment_counts_as_none(artifacts: FolderArtifacts) -> None:
    RECORD.model_copy(update={"of": "e1"}).write(artifacts)
    assert TrackingRecord.read(artifacts, "e1") is not None
    assert TrackingRecord.read(artifacts, "e2") is None


@pytest.mark.parametrize("what", ["a link", "a named pipe", "a folder"])
def test_what_is_no_file_counts_as_none(artifacts: FolderArtifacts, tmp_path: Path, what: str) -> None:
    path, outside = tmp_path / "tracking.json", tmp_path / "outside"
    outside.write_text(json.dumps(STORED))
    {"a link": lambda: path.symlink_to(outside), "a named pipe": lambda: os.mkfifo(path), "a folder": path.mkdir}[
        what
    ]()
    assert TrackingRecord.read(artifacts, "e1") is None


def test_a_storage_that_fails_is_reported(artifacts: FolderArtifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs are still recorded: they must not be forgotten because the storage does not answer for a second."""

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(artifacts, "open_reader", fail)
    with pytest.raises(OSError, match="Input/output error"):
        TrackingRecord.read(artifacts, "e1")
