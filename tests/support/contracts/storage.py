"""The contract of a storage backend, with those of its journal, artifacts and stop signals.

A backend's test inherits the class and overrides the fixture `root`; nothing else is needed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import PurePath

import pytest

from search_spaces.layout import NAMES
from search_spaces.storage.base import (
    ArtifactStore,
    ExperimentStorage,
    JournalBackend,
    check_root,
    open_root,
    open_storage,
)
from tests.support.contracts.artifact_store import ArtifactStoreContract, content
from tests.support.contracts.journal_backend import JournalBackendContract
from tests.support.contracts.stop_signal import OpenSignal, StopSignalContract

WEIGHTS = PurePath("trials/00000/last.pt")
OTHER_PROCESS = """
import sys
from search_spaces.layout import NAMES
from search_spaces.storage.base import open_storage
storage = open_storage(sys.argv[1])
with storage.artifacts.open_reader(NAMES.spec) as file:
    print(file.read().decode())
print(next(iter(storage.journal.entries())))
storage.stop_signal(3).ask()
storage.journal.open_writer(2).append({"n": 2})
with storage.artifacts.open_appender(NAMES.driver_log(2)) as log:
    log.write(b"hello")
"""


class StorageContract(JournalBackendContract, ArtifactStoreContract, StopSignalContract):
    @pytest.fixture
    def root(self) -> str:
        """The address of a root without experiments, which may not exist yet."""
        raise NotImplementedError

    @pytest.fixture
    def address(self, root: str) -> str:
        return f"{check_root(root)}/k3v9q2mz"

    @pytest.fixture
    def created(self, root: str, address: str) -> ExperimentStorage:
        open_root(check_root(root)).identify("a3f0")
        storage = open_storage(address)
        storage.create()
        return storage

    @pytest.fixture
    def journal(self, created: ExperimentStorage) -> JournalBackend:
        return created.journal

    @pytest.fixture
    def artifacts(self, created: ExperimentStorage) -> ArtifactStore:
        return created.artifacts

    @pytest.fixture
    def open_signal(self, created: ExperimentStorage, address: str) -> OpenSignal:
        created.artifacts.write(NAMES.trial(3).spec, b"{}")
        return lambda: open_storage(address).stop_signal(3)

    def test_a_checked_root_stays_as_it_is(self, root: str) -> None:
        assert check_root(check_root(root)) == check_root(root)

    def test_a_root_keeps_its_first_identity(self, root: str) -> None:
        opened = open_root(check_root(root))
        assert opened.identity() is None
        assert opened.identify("a3f0") == "a3f0"
        assert open_root(check_root(root)).identify("b7c1") == "a3f0"
        assert opened.identity() == "a3f0"
        assert opened.exists()
        assert opened.identity_address.startswith(check_root(root))

    def test_an_experiment_does_not_create_a_root_that_is_missing(self, root: str, address: str) -> None:
        with pytest.raises(OSError, match=r"."):
            open_storage(address).create()
        assert open_root(check_root(root)).identity() is None

    def test_an_experiment_that_was_not_created_is_empty(self, address: str) -> None:
        storage = open_storage(address)
        assert not storage.journal.exists()
        assert list(storage.artifacts.list()) == []
        assert not storage.artifacts.exists(NAMES.spec)
        assert not storage.stop_signal(3).asked()
        free = storage.free_bytes()
        assert free is None or free > 0
        storage.remove()

    def test_creating_keeps_what_is_there(self, created: ExperimentStorage) -> None:
        created.artifacts.write(NAMES.spec, b"{}")
        created.create()
        assert content(created.artifacts, NAMES.spec) == b"{}"

    def test_experiments_are_apart(self, root: str, created: ExperimentStorage) -> None:
        other = open_storage(f"{check_root(root)}/another1")
        other.create()
        other.artifacts.write(NAMES.spec, b"other")
        created.artifacts.write(NAMES.spec, b"ours")
        created.journal.open_writer(1).close()
        assert not other.journal.exists()
        created.remove()
        assert content(other.artifacts, NAMES.spec) == b"other"

    def test_a_process_that_outlives_its_experiment_does_not_bring_it_back(self, created: ExperimentStorage) -> None:
        created.artifacts.write(WEIGHTS, b"w")
        created.journal.open_writer(1).close()
        created.remove()
        created.remove()
        for name in (NAMES.spec, WEIGHTS):
            with pytest.raises(FileNotFoundError):
                created.artifacts.write(name, b"w")
            with pytest.raises(FileNotFoundError):
                created.artifacts.open_appender(name)
            assert not created.artifacts.exists(name)
        with pytest.raises(OSError, match=r"."):
            created.journal.open_writer(2)
        assert not created.journal.exists()
        assert list(created.artifacts.list()) == []
        created.create()
        assert list(created.artifacts.list()) == []

    def test_what_a_process_left_that_was_killed_while_it_replaced_a_folder_is_removed(
        self, created: ExperimentStorage
    ) -> None:
        killed = created.artifacts.replace_folder(NAMES.plots)
        (killed.__enter__() / "half.png").write_bytes(b"half")
        created.artifacts.discard_unfinished(NAMES.plots)
        assert list(created.artifacts.list()) == []

    def test_another_process_sees_what_was_written(self, address: str, created: ExperimentStorage) -> None:
        created.artifacts.write(NAMES.spec, b"spec", private=True)
        signal, writer = created.stop_signal(3), created.journal.open_writer(1)
        created.artifacts.write(NAMES.trial(3).spec, b"{}")
        writer.append({"n": 1})
        writer.close()
        command = [sys.executable, "-c", OTHER_PROCESS, address]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert printed.splitlines() == ["spec", "{'n': 1}"]
        assert signal.asked()
        assert list(created.journal.entries()) == [{"n": 1}, {"n": 2}]
        assert content(created.artifacts, NAMES.driver_log(2)) == b"hello"
