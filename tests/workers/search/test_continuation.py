"""Continuation: a new experiment begins with the results of another, numbered from 0, all of them or none."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.objective import Objective
from search_spaces.protocol import TrialState
from search_spaces.storage.folder import FolderStorage
from tests.support.workers import BuildSpec, OpenRecorder
from workers.search import continuation
from workers.search.tune_searcher import TuneSearcher
from workers.state.checkpoints import BEST
from workers.state.recorder import Recorder

NAME = "journal.jsonl"
ENDS = {
    0: (TrialState.CANCELED, [0.99]),
    1: (TrialState.COMPLETED, [0.2, 0.4]),
    2: (TrialState.ERROR, [0.9]),
    3: (TrialState.EARLY_STOPPED, [0.3]),
    5: (TrialState.DIVERGED, [float("nan")]),
    6: (TrialState.COMPLETED, [0.5, 0.7, 0.6]),
}


@pytest.fixture
def source(tmp_path: Path, experiment: BuildSpec) -> Path:
    """An experiment of seven trials: each finished an epoch in turn; number 4 never ended."""
    folder = tmp_path / "original"
    folder.mkdir()
    spec = experiment()
    recorder = Recorder(FolderStorage(folder).journal, spec.objective)
    searcher = searching(spec, recorder, folder, 7)
    for number in range(7):
        searcher.suggest(str(number))
        recorder.mark_slot_taken(number)
        (folder / f"trials/{number:05d}" / BEST).write_bytes(b"weights %d" % number)
        (folder / f"trials/{number:05d}/validation.json").write_bytes(b"outcomes %d" % number)
    recorder.record_data({"train": "1"})
    for epoch in range(1, 4):
        for number, (_, curve) in reversed(ENDS.items()):
            if epoch <= len(curve):
                recorder.record_epoch(number, epoch, {"validation_accuracy": curve[epoch - 1], "epoch_seconds": 1.0})
    for number, (state, _) in ENDS.items():
        recorder.record_end(number, state, f"because {number}")
    recorder.close()
    (folder / "data").mkdir()
    (folder / "data/dataset.json").write_text("what is known of the data")
    return folder


def searching(spec: ExperimentSpec, recorder: Recorder, folder: Path, num_samples: int) -> TuneSearcher:
    return TuneSearcher(
        spec, recorder, FolderStorage(folder), lambda _: {}, lambda: num_samples, lambda: 9, lambda: None
    )


def imported(source: Path, folder: Path, recorder: Recorder) -> int:
    return continuation.import_trials(str(source), FolderStorage(folder), recorder)


def test_results_are_imported_in_their_order(source: Path, tmp_path: Path, open_recorder: OpenRecorder) -> None:
    original, recorder = Recorder(FolderStorage(source).journal, Objective(), 2), open_recorder(3)
    assert imported(source, tmp_path, recorder) == 4
    taken = {0: 1, 1: 3, 2: 5, 3: 6}
    for number, theirs in taken.items():
        mine, other = recorder.table.trials[number], original.table.trials[theirs]
        assert repr(mine.curve) == repr(other.curve)
        assert (mine.sample, mine.parameters, mine.state) == (other.sample, other.parameters, other.state)
        assert (mine.stop_reason, mine.ended_at) == (f"because {theirs}", other.ended_at)
        assert mine.source == f"original/{theirs}"
        specs = [
            folder / f"{place:05d}" / "spec.json"
            for folder, place in ((tmp_path / "trials", number), (source / "trials", theirs))
        ]
        assert specs[0].read_bytes() == specs[1].read_bytes()
    assert [step[:2] for step in recorder.table.history()] == [(3, 1), (2, 1), (1, 1), (0, 1), (3, 2), (0, 2), (3, 3)]
    assert {path.parent.name: path.read_bytes() for path in (tmp_path / "trials").rglob(BEST)} == {
        "00003": b"weights 6"
    }
    assert [(tmp_path / f"trials/{number:05d}/validation.json").read_bytes() for number in taken] == [
        b"outcomes %d" % theirs for theirs in taken.values()
    ]
    known = (tmp_path / "data/dataset.json").read_text()
    assert known == "what is known of the data", "with which the next trials compare their own"
    assert recorder.table.data == {"train": "1"}, "as also with this"
    original.close()


def test_imported_trials_use_no_budget(source: Path, tmp_path: Path, open_recorder: OpenRecorder) -> None:
    recorder = open_recorder()
    imported(source, tmp_path, recorder)
    assert (recorder.clock.slot_seconds(), recorder.clock.elapsed_s()) == (0.0, 0.0)
    recorder.close()
    assert (open_recorder(2).clock.slot_seconds(), open_recorder(3).clock.elapsed_s()) == (0.0, 0.0)


def test_the_search_continues_from_imported_trials(
    tmp_path: Path, experiment: BuildSpec, open_recorder: OpenRecorder
) -> None:
    """A grid tries the combinations that are left."""
    spec = experiment(searcher="grid", search_space={"batch_size": {"choice": [16, 32, 64, 128]}})

    def propose(folder: Path, recorder: Recorder, trials: int) -> Recorder:
        searcher = searching(spec, recorder, folder, trials)
        while isinstance(searcher.suggest(str(len(recorder.table.trials))), dict):
            pass
        recorder.record_end(1, TrialState.COMPLETED, "done")
        recorder.close()
        return recorder

    other = tmp_path / "grid"
    other.mkdir()
    propose(other, Recorder(FolderStorage(other).journal, spec.objective), 2)
    recorder = open_recorder()
    assert imported(other, tmp_path, recorder) == 1
    propose(tmp_path, recorder, 4)
    assert [trial.sample["batch_size"] for trial in recorder.table.trials.values()] == [1, 0, 2, 3]


def test_an_import_is_repeated_after_a_crash(source: Path, tmp_path: Path, open_recorder: OpenRecorder) -> None:
    recorder = open_recorder()
    imported(source, tmp_path, recorder)
    recorder.close()
    for path in tmp_path.glob("journal*"):
        path.write_bytes(path.read_bytes()[:-100])
    again = open_recorder(2)
    assert again.table.trials == {}
    imported(source, tmp_path, again)
    assert again.table.trials, "of another attempt, but otherwise the same"
    assert repr(again.table.trials).replace("ended_in=2", "ended_in=1") == repr(recorder.table.trials)


def test_missing_weights_and_folders_lose_nothing_else(
    source: Path, tmp_path: Path, open_recorder: OpenRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    (source / "trials" / "00006" / BEST).unlink()
    (source / "trials" / "00003" / "spec.json").unlink()
    recorder = open_recorder()
    with caplog.at_level(logging.WARNING):
        assert imported(source, tmp_path, recorder) == 3
    assert [trial.source for trial in recorder.table.trials.values()] == ["original/1", "original/5", "original/6"]
    assert "the weights of the best trial are not imported" in caplog.text
    assert list((tmp_path / "trials").rglob("*.p*t")) == []


def test_a_damaged_journal_of_the_source_is_read_from_its_copy(
    source: Path, tmp_path: Path, open_recorder: OpenRecorder
) -> None:
    content = (source / NAME).read_bytes()
    (source / NAME).write_bytes(content.replace(b'"reason":"because 6"', b'"reason":"because ?"'))
    assert imported(source, tmp_path, open_recorder()) == 4


def test_a_continuation_of_a_continuation_names_its_direct_source(
    source: Path, tmp_path: Path, open_recorder: OpenRecorder
) -> None:
    recorder = open_recorder()
    imported(source, tmp_path, recorder)
    recorder.close()
    folder = tmp_path / "second"
    folder.mkdir()
    second = Recorder(FolderStorage(folder).journal, Objective())
    assert imported(tmp_path, folder, second) == 4
    assert second.table.trials[3].source == f"{tmp_path.name}/3"
    assert [trial.curve for trial in second.table.trials.values() if trial.number != 2] == [
        [0.2, 0.4],
        [0.3],
        [0.5, 0.7, 0.6],
    ]
    second.close()


def test_a_source_without_results_gives_no_trials(tmp_path: Path, open_recorder: OpenRecorder) -> None:
    recorder = open_recorder()
    size = (tmp_path / NAME).stat().st_size
    other = tmp_path / "other"
    other.mkdir()
    Recorder(FolderStorage(other).journal, Objective()).close()
    assert imported(other, tmp_path, recorder) == 0
    assert (tmp_path / NAME).stat().st_size == size


def test_a_source_with_only_one_journal_file_is_imported(
    source: Path, tmp_path: Path, open_recorder: OpenRecorder
) -> None:
    (source / NAME).unlink()
    assert imported(source, tmp_path, open_recorder()) == 4


def test_a_journal_of_the_source_with_an_entry_of_a_newer_version_is_an_error(
    source: Path, tmp_path: Path, open_recorder: OpenRecorder
) -> None:
    writer = FolderStorage(source).journal.open_writer(2)
    writer.append({"at": 1.0, "event": "ended", "trial": 4, "state": "REPLACED", "reason": ""})
    writer.close()
    with pytest.raises(continuation.SourceMissingError, match="this version cannot read: ValueError: 'REPLACED' is"):
        imported(source, tmp_path, open_recorder())


@pytest.mark.parametrize("how", ["absent", "damaged"])
def test_a_source_that_cannot_be_read_is_an_error(
    source: Path, tmp_path: Path, open_recorder: OpenRecorder, how: str
) -> None:
    for file in (source / NAME, FolderStorage(source).journal.copy):
        content = file.read_bytes()
        file.unlink() if how == "absent" else file.write_bytes(content.replace(b"because 6", b"because ?"))
    reason = "journal is missing" if how == "absent" else "is not what was written"
    recorder = open_recorder()
    with pytest.raises(
        continuation.SourceMissingError, match=f"cannot import the trials of the source experiment: .*{reason}"
    ) as raised:
        imported(source, tmp_path, recorder)
    assert source.name not in str(raised.value), "it may be another team's"
    assert recorder.table.trials == {}


@pytest.mark.parametrize(
    "entry",
    [
        {"at": 1.0, "event": "suggested", "trial": 1, "sample": [1], "parameters": [2]},
        {"at": 1.0, "event": "epoch", "trial": 1, "epoch": 4, "metrics": {"validation_accuracy": "high"}},
        {"at": 1.0, "event": "ended", "trial": "one", "state": "COMPLETED", "reason": "done"},
    ],
    ids=lambda entry: f"{entry['event']} {entry['trial']}",
)
def test_an_edited_source_does_not_get_into_the_journal(
    source: Path, tmp_path: Path, open_recorder: OpenRecorder, entry: dict[str, Any]
) -> None:
    """It would end every later attempt too."""
    writer = FolderStorage(source).journal.open_writer(2)
    writer.append(entry)
    writer.close()
    recorder = open_recorder()
    with pytest.raises(continuation.SourceMissingError, match="has an entry that this version cannot read"):
        imported(source, tmp_path, recorder)
    recorder.close()
    assert open_recorder(2).table.trials == {}
