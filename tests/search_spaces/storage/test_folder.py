"""Folder storage: the contracts of a storage backend, and what only files can do."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

import pytest

from search_spaces.storage.base import ArtifactStore, JournalBackend, open_storage
from search_spaces.storage.folder import FolderArtifacts, FolderStorage
from tests.support.contracts.artifact_store import ArtifactStoreContract
from tests.support.contracts.journal_backend import JournalBackendContract
from tests.support.contracts.stop_signal import OpenSignal, StopSignalContract


class TestFolderJournal(JournalBackendContract):
    @pytest.fixture
    def journal(self, tmp_path: Path) -> JournalBackend:
        return FolderStorage(tmp_path).journal


class TestFolderArtifacts(ArtifactStoreContract):
    @pytest.fixture
    def artifacts(self, tmp_path: Path) -> ArtifactStore:
        return FolderStorage(tmp_path).artifacts


class TestFolderStopSignal(StopSignalContract):
    @pytest.fixture
    def open_signal(self, tmp_path: Path) -> OpenSignal:
        storage = FolderStorage(tmp_path)
        storage.artifacts.write(PurePath("trials/00003/spec.json"), b"{}")
        return lambda: storage.stop_signal(3)


def test_an_address_names_its_backend(tmp_path: Path) -> None:
    assert open_storage(str(tmp_path)) == open_storage(f"folder://{tmp_path}") == FolderStorage(tmp_path)
    with pytest.raises(ValueError, match=r"must be one of folder \(got 'tape'\)"):
        open_storage("tape://x")


def test_a_process_that_outlives_its_experiment_does_not_bring_its_folder_back(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "experiment")
    storage.root.mkdir()
    storage.artifacts.write(PurePath("trials/00000/last.pt"), b"w")
    storage.remove()
    storage.remove()
    with pytest.raises(FileNotFoundError):
        storage.artifacts.write(PurePath("trials/00000/last.pt"), b"w")
    with pytest.raises(FileNotFoundError):
        storage.artifacts.open_appender(PurePath("trials/00000/trial.log"))
    assert not storage.root.exists()


def test_an_appended_file_is_for_its_owner_only(tmp_path: Path) -> None:
    artifacts = FolderArtifacts(tmp_path)
    artifacts.open_appender(PurePath("logs/driver-a1.log")).close()
    assert (tmp_path / "logs/driver-a1.log").stat().st_mode & 0o777 == 0o600


def test_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    artifacts = FolderArtifacts(tmp_path)
    artifacts.write(PurePath("a"), b"1234")
    os.link(tmp_path / "a", tmp_path / "b")
    assert sum(item.size_bytes for item in artifacts.list()) == 4
