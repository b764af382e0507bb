"""Fork: a new experiment begins with another's results, under numbers of its own, whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import TrialState
from workers.search import continuation
from workers.search.searcher import Searcher
from workers.state.checkpoints import BEST
from workers.state.journal import copy_of
from workers.state.trial_table import Progress
from workers.trial.worker import SPEC

OpenProgress = Callable[..., Progress]
Build = Callable[..., ExperimentSpec]
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
def source(tmp_path: Path, experiment: Build) -> Path:
    """An experiment of seven trials: each finished an epoch in turn; number 4 never ended."""
    folder = tmp_path / "original"
    folder.mkdir()
    spec = experiment()
    progress = Progress(folder / NAME, spec.objective)
    searcher = Searcher(spec, progress, folder / "trials", {}, lambda: 7, lambda: 9, lambda: None)
    for number in range(7):
        searcher.suggest(str(number))
        progress.took_slot(number)
        (folder / f"trials/{number:05d}" / BEST).write_bytes(b"weights %d" % number)
    for epoch in range(1, 4):
        for number, (_, curve) in reversed(ENDS.items()):
            if epoch <= len(curve):
                progress.epoch(number, epoch, {"validation_accuracy": curve[epoch - 1], "epoch_seconds": 1.0})
    for number, (state, _) in ENDS.items():
        progress.ended(number, state, f"because {number}")
    progress.close()
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "trials"
    folder.mkdir()
    return folder


def test_results_are_taken_over_in_their_order(source: Path, own: Path, open_progress: OpenProgress) -> None:
    original, progress = Progress(source / NAME, open_progress(2)._objective, 2), open_progress(3)
    assert continuation.import_trials(source, NAME, own, progress) == 4
    taken = {0: 1, 1: 3, 2: 5, 3: 6}
    for number, theirs in taken.items():
        mine, other = progress.trials[number], original.trials[theirs]
        assert repr(mine.curve) == repr(other.curve)
        assert (mine.sample, mine.parameters, mine.state) == (other.sample, other.parameters, other.state)
        assert (mine.stop_reason, mine.ended_at) == (f"because {theirs}", other.ended_at)
        assert mine.source == f"original/{theirs}"
        specs = [folder / f"{place:05d}" / SPEC for folder, place in ((own, number), (source / "trials", theirs))]
        assert specs[0].read_bytes() == specs[1].read_bytes()
    assert [step[:2] for step in progress.history()] == [(3, 1), (2, 1), (1, 1), (0, 1), (3, 2), (0, 2), (3, 3)]
    assert {path.parent.name: path.read_bytes() for path in own.rglob(BEST)} == {"00003": b"weights 6"}
    original.close()


def test_what_was_taken_over_spends_no_budget(source: Path, own: Path, open_progress: OpenProgress) -> None:
    progress = open_progress()
    continuation.import_trials(source, NAME, own, progress)
    assert (progress.slot_seconds(), progress.elapsed_s()) == (0.0, 0.0)
    progress.close()
    assert (open_progress(2).slot_seconds(), open_progress(3).elapsed_s()) == (0.0, 0.0)


def test_the_search_goes_on_from_them(
    own: Path, tmp_path: Path, experiment: Build, open_progress: OpenProgress
) -> None:
    """A grid tries what is left of it."""
    spec = experiment(searcher="grid", search_space={"batch_size": {"choice": [16, 32, 64, 128]}})

    def propose(folder: Path, progress: Progress, trials: int) -> Progress:
        searcher = Searcher(spec, progress, folder / "trials", {}, lambda: trials, lambda: 9, lambda: None)
        while isinstance(searcher.suggest(str(len(progress.trials))), dict):
            pass
        progress.ended(1, TrialState.COMPLETED, "done")
        progress.close()
        return progress

    other = tmp_path / "grid"
    other.mkdir()
    propose(other, Progress(other / NAME, spec.objective), 2)
    progress = open_progress()
    assert continuation.import_trials(other, NAME, own, progress) == 1
    propose(tmp_path, progress, 4)
    assert [trial.sample["batch_size"] for trial in progress.trials.values()] == [1, 0, 2, 3]


def test_a_crash_on_the_way_is_repeated_cleanly(
    source: Path, own: Path, tmp_path: Path, open_progress: OpenProgress
) -> None:
    progress = open_progress()
    continuation.import_trials(source, NAME, own, progress)
    progress.close()
    for path in tmp_path.glob("journal*"):
        path.write_bytes(path.read_bytes()[:-100])
    again = open_progress(2)
    assert again.trials == {}
    continuation.import_trials(source, NAME, own, again)
    assert repr(again.trials) == repr(progress.trials)


def test_lost_weights_and_folders_lose_no_more(
    source: Path, own: Path, open_progress: OpenProgress, caplog: pytest.LogCaptureFixture
) -> None:
    (source / "trials" / "00006" / BEST).unlink()
    (source / "trials" / "00003" / SPEC).unlink()
    progress = open_progress()
    with caplog.at_level(logging.WARNING):
        assert continuation.import_trials(source, NAME, own, progress) == 3
    assert [trial.source for trial in progress.trials.values()] == ["original/1", "original/5", "original/6"]
    assert "weights are not taken over" in caplog.text
    assert list(own.rglob("*.p*t")) == []


def test_a_damaged_journal_of_the_source_is_read_from_its_copy(
    source: Path, own: Path, open_progress: OpenProgress
) -> None:
    content = (source / NAME).read_bytes()
    (source / NAME).write_bytes(content.replace(b'"reason":"because 6"', b'"reason":"because ?"'))
    assert continuation.import_trials(source, NAME, own, open_progress()) == 4


def test_a_fork_of_a_fork_names_its_nearest(
    source: Path, own: Path, tmp_path: Path, open_progress: OpenProgress
) -> None:
    progress = open_progress()
    continuation.import_trials(source, NAME, own, progress)
    progress.close()
    second = Progress(tmp_path / "second.jsonl", progress._objective)
    assert continuation.import_trials(tmp_path, NAME, tmp_path / "second", second) == 4
    assert second.trials[3].source == f"{tmp_path.name}/3"
    assert [trial.curve for trial in second.trials.values() if trial.number != 2] == [
        [0.2, 0.4],
        [0.3],
        [0.5, 0.7, 0.6],
    ]
    second.close()


def test_a_source_without_results_is_an_empty_beginning(tmp_path: Path, own: Path, open_progress: OpenProgress) -> None:
    progress = open_progress()
    size = (tmp_path / NAME).stat().st_size
    other = tmp_path / "other"
    other.mkdir()
    Progress(other / NAME, progress._objective).close()
    assert continuation.import_trials(other, NAME, own, progress) == 0
    assert (tmp_path / NAME).stat().st_size == size


def test_a_source_of_which_one_file_is_left_is_taken_over(source: Path, own: Path, open_progress: OpenProgress) -> None:
    (source / NAME).unlink()
    assert continuation.import_trials(source, NAME, own, open_progress()) == 4


@pytest.mark.parametrize("how", ["absent", "damaged"])
def test_a_source_that_cannot_be_read_is_no_empty_beginning(
    source: Path, own: Path, open_progress: OpenProgress, how: str
) -> None:
    for file in (source / NAME, copy_of(source / NAME)):
        content = file.read_bytes()
        file.unlink() if how == "absent" else file.write_bytes(content.replace(b"because 6", b"because ?"))
    said = f"no journal in {source}" if how == "absent" else "is not what was written"
    progress = open_progress()
    with pytest.raises(continuation.SourceMissingError, match=f"the trials to begin with cannot be read: .*{said}"):
        continuation.import_trials(source, NAME, own, progress)
    assert progress.trials == {}
