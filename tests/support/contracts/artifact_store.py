"""The contract of an `ArtifactStore`. A backend's test inherits the class and overrides the fixture `artifacts`."""

from __future__ import annotations

import os
import signal
from pathlib import PurePath

import pytest

from search_spaces.storage.base import MAX_DOCUMENT_BYTES, ArtifactStore, DocumentTooLargeError, read_document

SPEC = PurePath("trials/00000/spec.json")


def content(artifacts: ArtifactStore, name: PurePath) -> bytes:
    with artifacts.open_reader(name) as file:
        return file.read()


class ArtifactStoreContract:
    @pytest.fixture
    def artifacts(self) -> ArtifactStore:
        """The store of an experiment without artifacts."""
        raise NotImplementedError

    def test_a_document_is_read_up_to_a_limit(self, artifacts: ArtifactStore) -> None:
        document = b"x" * MAX_DOCUMENT_BYTES
        artifacts.write(SPEC, document)
        assert read_document(artifacts, SPEC) == document
        artifacts.write(SPEC, document + b"x")
        with pytest.raises(DocumentTooLargeError, match="must have at most 16777216 bytes"):
            read_document(artifacts, SPEC)

    def test_a_file_is_read_as_it_was_written_last(self, artifacts: ArtifactStore) -> None:
        artifacts.write(SPEC, b"old")
        artifacts.write(SPEC, memoryview(b"newer"))
        assert artifacts.exists(SPEC)
        assert content(artifacts, SPEC) == b"newer"
        artifacts.write(SPEC, b"secret", private=True)
        assert content(artifacts, SPEC) == b"secret"

    def test_a_reader_is_seekable(self, artifacts: ArtifactStore) -> None:
        artifacts.write(SPEC, b"0123456789")
        with artifacts.open_reader(SPEC) as file:
            assert file.seek(0, os.SEEK_END) == 10
            file.seek(4)
            assert file.read(3) == b"456"

    def test_a_missing_file_is_reported(self, artifacts: ArtifactStore) -> None:
        assert not artifacts.exists(SPEC)
        with pytest.raises(FileNotFoundError):
            artifacts.open_reader(SPEC)
        with pytest.raises(FileNotFoundError), artifacts.local_folder(PurePath("model")):
            pass
        artifacts.remove(SPEC)

    def test_an_appender_adds_to_what_is_there(self, artifacts: ArtifactStore) -> None:
        name = PurePath("logs/driver-a1.log")
        for text in (b"one\n", b"two\n"):
            with artifacts.open_appender(name) as file:
                assert file.tell() == 4 * (text == b"two\n")
                assert file.write(text) == 4
        assert content(artifacts, name) == b"one\ntwo\n"

    def test_the_file_before_is_kept_under_another_name(self, artifacts: ArtifactStore) -> None:
        last, previous = SPEC.with_name("last.pt"), SPEC.with_name("previous.pt")
        artifacts.rotate(last, b"1", previous)
        assert not artifacts.exists(previous)
        for number in (b"2", b"3"):
            artifacts.rotate(last, memoryview(number), previous)
        assert {item.name for item in artifacts.list()} == {last, previous}
        assert content(artifacts, previous) == b"2"
        assert content(artifacts, last) == b"3"

    def test_files_are_listed_with_their_sizes_until_they_are_removed(self, artifacts: ArtifactStore) -> None:
        other = PurePath("spec.json")
        artifacts.write(SPEC, b"123")
        artifacts.write(other, b"12345")
        assert {item.name: item.size_bytes for item in artifacts.list()} == {SPEC: 3, other: 5}
        assert {item.name for item in artifacts.list(PurePath("trials"))} == {SPEC}
        assert list(artifacts.list(PurePath("nothing"))) == []
        artifacts.remove(SPEC)
        assert {item.name for item in artifacts.list()} == {other}

    def test_files_can_be_removed_while_they_are_listed(self, artifacts: ArtifactStore) -> None:
        for number in range(5):
            artifacts.write(PurePath(f"trials/0000{number}/last.pt"), b"w")
            artifacts.write(PurePath(f"trials/0000{number}/spec.json"), b"s")
        for item in artifacts.list():
            if item.name.name == "last.pt":
                artifacts.remove(item.name)
        assert {item.name.name for item in artifacts.list()} == {"spec.json"}

    @pytest.mark.parametrize("name", ["/etc/passwd", "../other/spec.json", "trials/../../spec.json"])
    def test_no_name_leaves_the_experiment(self, artifacts: ArtifactStore, name: str) -> None:
        with pytest.raises(ValueError, match="must be a relative path without"):
            artifacts.open_reader(PurePath(name))
        with pytest.raises(ValueError, match="must be a relative path without"):
            artifacts.write(PurePath(name), b"")

    def test_a_folder_is_replaced_as_a_whole(self, artifacts: ArtifactStore) -> None:
        model = PurePath("model")
        for number in range(2):
            with artifacts.replace_folder(model) as folder:
                assert list(folder.iterdir()) == []
                (folder / f"weights-{number}").write_bytes(b"w")
        with artifacts.local_folder(model) as folder:
            assert [path.name for path in folder.iterdir()] == ["weights-1"]

    def test_a_folder_that_fails_leaves_the_previous_one(self, artifacts: ArtifactStore) -> None:
        model = PurePath("model")
        with artifacts.replace_folder(model) as folder:
            (folder / "weights").write_bytes(b"w")

        def fail() -> None:
            with artifacts.replace_folder(model) as folder:
                (folder / "half").write_bytes(b"h")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert {item.name for item in artifacts.list()} == {model / "weights"}

    def test_what_a_killed_process_left_of_a_folder_is_removed_by_the_next(self, artifacts: ArtifactStore) -> None:
        model = PurePath("model")
        child = os.fork()
        if not child:
            try:
                with artifacts.replace_folder(model) as folder:
                    (folder / "half").write_bytes(b"h")
                    os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        with artifacts.replace_folder(model) as folder:
            (folder / "weights").write_bytes(b"w")
        assert {item.name for item in artifacts.list()} == {model / "weights"}
