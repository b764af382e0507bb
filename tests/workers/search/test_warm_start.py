"""Warm start: which configurations are taken from earlier experiments, and that a restart takes the same."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.objective import Objective
from search_spaces.protocol import TrialState
from search_spaces.replicates import replicate_number
from search_spaces.storage.folder import FolderStorage
from tests.support.workers import BuildSpec, OpenRecorder
from workers.search import warm_start
from workers.search.tune_searcher import TuneSearcher
from workers.state.recorder import Recorder

Ended = tuple[TrialState, float, int]  # state, best value, batch size


def earlier(folder: Path, *trials: Ended) -> str:
    """An experiment of these trials. Returns the address of its storage."""
    folder.mkdir()
    recorder = Recorder(FolderStorage(folder).journal, Objective())
    for number, (state, value, batch_size) in enumerate(trials):
        recorder.record_suggestion(number, {}, {"batch_size": batch_size, "label_smoothing": 0.1})
        recorder.record_epoch(number, 1, {"validation_accuracy": value, "validation_loss": value})
        recorder.record_end(number, state, "done")
    recorder.close()
    return str(folder)


@pytest.fixture
def addresses(tmp_path: Path) -> list[str]:
    one = earlier(
        tmp_path / "one",
        (TrialState.COMPLETED, 0.7, 64),
        (TrialState.EARLY_STOPPED, 0.9, 128),
        (TrialState.ERROR, 0.99, 256),
        (TrialState.CANCELED, 0.98, 512),
        (TrialState.COMPLETED, 0.6, 16),
        (TrialState.COMPLETED, 0.5, 32),
    )
    two = earlier(tmp_path / "two", (TrialState.COMPLETED, 0.2, 32), (TrialState.COMPLETED, 0.3, 128))
    three = earlier(tmp_path / "three", (TrialState.COMPLETED, 0.1, 1024))
    return [one, two, three]


def sources(recorder: Recorder) -> list[Any]:
    """What the journal says was taken, in its order."""
    return [one["batch_size"] for one in recorder.table.known or ()]


def test_the_best_of_each_experiment_comes_before_the_second_best_of_any(
    addresses: list[str], open_recorder: OpenRecorder
) -> None:
    """The best of the second has the configuration of the best of the first, and so counts once."""
    recorder = open_recorder()
    warm_start.take_from(addresses, recorder, Objective())
    assert sources(recorder) == [128, 1024, 64, 32, 16]


def test_the_objective_of_the_new_experiment_decides(addresses: list[str], open_recorder: OpenRecorder) -> None:
    objective = Objective(metric="validation_loss", mode="min")
    recorder = open_recorder(1, objective)
    warm_start.take_from(addresses[:1], recorder, objective)
    assert sources(recorder) == [32, 16, 64, 128]


def searcher(spec: ExperimentSpec, recorder: Recorder, folder: Path) -> TuneSearcher:
    return TuneSearcher(spec, recorder, FolderStorage(folder), lambda _: {}, lambda: 9, lambda: 9, lambda: None)


def proposed(spec: ExperimentSpec, recorder: Recorder, folder: Path, count: int) -> list[Any]:
    """The trials when there are `count`. Those that were interrupted are handed out again first."""
    search = searcher(spec, recorder, folder)
    for number in range(count):
        assert isinstance(search.suggest(str(number)), dict)
    return [trial.parameters for trial in recorder.table.trials.values()]


def test_a_restart_proposes_the_same_although_the_earlier_experiments_are_gone(
    addresses: list[str], tmp_path: Path, experiment: BuildSpec, open_recorder: OpenRecorder
) -> None:
    spec = experiment(searcher={"kind": "random", "warm_start": ["one"]})
    folders = [tmp_path / "whole", tmp_path / "interrupted"]
    whole = Recorder(_storage(folders[0]).journal, spec.objective)
    warm_start.take_from(addresses, whole, spec.objective)
    expected = proposed(spec, whole, folders[0], 8)
    whole.close()
    assert [one["batch_size"] for one in expected[:2]] == [128, 64], "without its 1024, the second is as the first"
    interrupted = Recorder(_storage(folders[1]).journal, spec.objective)
    warm_start.take_from(addresses, interrupted, spec.objective)
    proposed(spec, interrupted, folders[1], 2)
    interrupted.close()
    for address in addresses:
        shutil.rmtree(address)
    again = Recorder(FolderStorage(folders[1]).journal, spec.objective, 2)
    assert proposed(spec, again, folders[1], 8) == expected
    again.close()


def _storage(folder: Path) -> FolderStorage:
    folder.mkdir()
    return FolderStorage(folder)


def test_an_experiment_that_cannot_be_read_costs_only_its_configurations(
    addresses: list[str], tmp_path: Path, open_recorder: OpenRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (tmp_path / "one").glob("journal*"):
        path.write_bytes(b"\0garbage\n" + path.read_bytes())
    shutil.rmtree(tmp_path / "three")
    recorder = open_recorder()
    with caplog.at_level(logging.INFO):
        warm_start.take_from(addresses, recorder, Objective())
    assert sources(recorder) == [128, 32]
    assert "an earlier experiment cannot be read, so that nothing is taken from it" in caplog.text
    assert not any(address in caplog.text or f"{Path(address).name}/" in caplog.text for address in addresses)


@pytest.mark.parametrize(
    "entry",
    [
        {"at": 1.0, "event": "ended", "trial": 0, "state": "REPLACED", "reason": "a state of a newer version"},
        {"at": 1.0, "event": "epoch", "trial": 77, "epoch": 1, "metrics": {"validation_accuracy": 0.9}},
        {"at": 1.0, "event": "suggested", "trial": 9},
        {"at": 1.0},
        {"at": 1.0, "event": []},
        {"at": 1.0, "event": "epoch", "trial": 0, "epoch": 2, "metrics": {"validation_accuracy": "high"}},
        {"at": 1.0, "event": "epoch", "trial": 0, "epoch": 2, "metrics": [1]},
        *(
            {"at": 1.0, "event": "suggested", "trial": 0, "sample": {}, "parameters": parameters}
            for parameters in (None, [1, 2], "x")
        ),
        {"at": 1.0, "event": "suggested", "trial": "zero", "sample": {}, "parameters": {}},
        {"at": 1.0, "event": "suggested", "trial": [], "sample": {}, "parameters": {}},
        {"at": 1.0, "event": "warm_start", "configurations": 7},
    ],
    ids=lambda entry: json.dumps(entry)[10:90],
)
def test_an_edited_journal_costs_only_its_configurations(
    addresses: list[str], tmp_path: Path, open_recorder: OpenRecorder, entry: dict[str, Any]
) -> None:
    writer = FolderStorage(tmp_path / "one").journal.open_writer(2)
    writer.append(entry)
    writer.close()
    recorder = open_recorder()
    warm_start.take_from(addresses, recorder, Objective())
    assert sources(recorder) == [128, 1024, 32]


@pytest.mark.parametrize("odd", [[1, 2], {"b": {"c": 1}}, None], ids=str)
def test_what_cannot_be_a_configuration_is_not_taken(
    addresses: list[str], tmp_path: Path, open_recorder: OpenRecorder, odd: Any
) -> None:
    """What is taken is recorded: it would end this search whenever it starts."""
    for entry in (
        {"at": 1.0, "event": "suggested", "trial": 9, "sample": {}, "parameters": {"batch_size": odd}},
        {"at": 1.0, "event": "epoch", "trial": 9, "epoch": 1, "metrics": {"validation_accuracy": 1.0}},
        {"at": 1.0, "event": "ended", "trial": 9, "state": "COMPLETED", "reason": "done"},
    ):
        _append(tmp_path / "one", entry)
    recorder = open_recorder()
    warm_start.take_from(addresses, recorder, Objective())
    assert sources(recorder) == [128, 1024, 64, 32, 16]


def _append(folder: Path, entry: dict[str, Any]) -> None:
    writer = FolderStorage(folder).journal.open_writer(2)
    writer.append(entry)
    writer.close()


def test_replicates_are_no_configurations_of_their_own(tmp_path: Path, open_recorder: OpenRecorder) -> None:
    """Their values are of other seeds: one that had luck must not put its trial before a better one."""
    address = earlier(tmp_path / "one", (TrialState.COMPLETED, 0.7, 64), (TrialState.COMPLETED, 0.6, 32))
    before = Recorder(FolderStorage(tmp_path / "one").journal, Objective(), 2)
    before.record_suggestion(replicate_number(1, 0), {}, before.table.trials[1].parameters)
    metrics = {"validation_accuracy": 0.9}
    before.record_epoch(replicate_number(1, 0), 1, metrics, (TrialState.COMPLETED, "done"))
    before.close()
    recorder = open_recorder()
    warm_start.take_from([address], recorder, Objective())
    assert sources(recorder) == [64, 32]


def test_nothing_to_take_is_recorded_too(open_recorder: OpenRecorder) -> None:
    recorder = open_recorder()
    assert recorder.table.known is None
    warm_start.take_from([], recorder, Objective())
    recorder.close()
    assert open_recorder(2).table.known == ()
