"""The Tune searcher: a replayed journal proposes what an uninterrupted run does; slots and waiting trials count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher as RaySearcher

from search_spaces.experiment import ExperimentSpec, TrialSpec
from search_spaces.layout import ExperimentFolder
from search_spaces.protocol import ErrorKind, TrialState
from search_spaces.searchers import Searcher
from search_spaces.storage.base import WriterFencedError
from search_spaces.storage.folder import FolderStorage
from tests.support.families import kinds
from tests.support.workers import BuildSpec, OpenRecorder
from workers.search.tune_searcher import TuneSearcher
from workers.state.recorder import Recorder

GRID = {
    "optimizer": {"choice": [{"kind": "adam"}, {"kind": "sgd", "momentum": {"choice": [0.0, 0.9]}}]},
    "batch_size": {"choice": [64, 128]},
}
#: A short search of every kind.
SEARCHES: dict[str, dict[str, Any]] = {
    kind: {"searcher": kind, "search_space": GRID}
    if cls.exhaustive
    else {"searcher": {"kind": kind, "num_samples": 12}}
    for kind, cls in kinds(Searcher).items()
}
SEARCHES["tpe"]["searcher"]["startup_trials"] = 3  # so that it learns within the search
RATES = [{"kind": "adam"}, {"kind": "sgd", "lr": {"loguniform": [0.01, 1.0]}}]
SEARCHES["auto-dependent"] = {  # every second sample is one of a random search
    "searcher": {"kind": "auto", "num_samples": 12, "startup_trials": 3},
    "search_space": {"optimizer": {"choice": RATES}, "batch_size": {"choice": [64, 128]}},
}


class Slots:
    """How many trials may run, to be changed as the service would."""

    def __init__(self, count: int = 1) -> None:
        self.count = count

    def __call__(self) -> int:
        return self.count


def searching(
    spec: ExperimentSpec,
    recorder: Recorder,
    folder: Path,
    slots: Callable[[], int],
    num_samples: int | None = None,
    on_last: Callable[[], None] = lambda: None,
) -> TuneSearcher:
    return TuneSearcher(
        spec,
        recorder,
        FolderStorage(folder),
        lambda _: {"data_root": "/data"},
        lambda: num_samples or spec.num_samples,
        slots,
        on_last,
    )


def run_one(searcher: TuneSearcher, recorder: Recorder) -> int | None:
    """Hand out a trial, finish an epoch or two with values by a formula, end it; None when there are no more."""
    config = searcher.suggest("tune-id")
    if config == RaySearcher.FINISHED:
        return None
    number = int(config["trial"])
    finish(searcher, recorder, number)
    return number


def finish(searcher: TuneSearcher, recorder: Recorder, number: int, name: str = "tune-id") -> None:
    """Every fourth trial diverges, every third is stopped early, the others complete."""
    value = float(recorder.table.trials[number].parameters["batch_size"]) / 256 + number * 0.01
    if number % 4 == 3:
        outcome = TrialState.DIVERGED, "nan"
    elif number % 3 == 2:
        outcome = TrialState.EARLY_STOPPED, "cut"
    else:
        recorder.record_epoch(number, 1, {"validation_accuracy": value / 2})
        outcome = TrialState.COMPLETED, "done"
    recorder.record_epoch(number, recorder.table.trials[number].epoch + 1, {"validation_accuracy": value}, outcome)
    searcher.on_trial_complete(name)


def uninterrupted(spec: ExperimentSpec, folder: Path) -> list[dict[str, float]]:
    folder = folder / "whole"
    folder.mkdir()
    recorder = Recorder(FolderStorage(folder).journal, spec.objective)
    searcher = searching(spec, recorder, folder, Slots())
    while run_one(searcher, recorder) is not None:
        pass
    recorder.close()
    return [trial.sample for trial in recorder.table.trials.values()]


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_search_with_many_crashes_proposes_what_an_uninterrupted_one_does(
    kind: str, tmp_path: Path, experiment: BuildSpec, open_recorder: OpenRecorder
) -> None:
    spec = experiment(**SEARCHES[kind])
    expected = uninterrupted(spec, tmp_path)
    attempt = 0
    recorder = open_recorder(1)
    while len(recorder.table.trials) < len(expected):  # a new driver for every second trial
        attempt += 1
        recorder.close()
        recorder = open_recorder(attempt)
        searcher = searching(spec, recorder, tmp_path, Slots())
        for _ in range(2):
            run_one(searcher, recorder)
    assert attempt > 2
    assert [trial.sample for trial in recorder.table.trials.values()] == expected


def test_the_folder_of_a_trial_has_its_bound_spec(
    tmp_path: Path, experiment: BuildSpec, open_recorder: OpenRecorder
) -> None:
    spec, recorder = experiment(), open_recorder()
    config = searching(spec, recorder, tmp_path, Slots()).suggest("a")
    bound = TrialSpec.model_validate_json(ExperimentFolder(tmp_path).trial(0).spec.read_text())
    assert config == {"trial": 0, "epoch": 0, "data_root": "/data", "data": None}
    assert bound == spec.bind(recorder.table.trials[0].sample, 0)
    assert recorder.table.trials[0].parameters == spec.parameters(bound)


def test_a_superseded_driver_changes_no_spec_of_its_successor(
    tmp_path: Path, experiment: BuildSpec, open_recorder: OpenRecorder
) -> None:
    """The two propose different samples: the journal lost entries, and their epochs were trained again."""
    old = searching(experiment(seed=6), open_recorder(1), tmp_path, Slots())
    new = searching(experiment(), open_recorder(2), tmp_path, Slots())
    new.suggest("a")
    spec = ExperimentFolder(tmp_path).trial(0).spec
    content = spec.read_bytes()
    with pytest.raises(WriterFencedError):
        old.suggest("a")
    assert spec.read_bytes() == content


def test_a_superseded_driver_hands_out_no_waiting_trial(
    tmp_path: Path, experiment: BuildSpec, open_recorder: OpenRecorder
) -> None:
    recorder = open_recorder(1)
    old = searching(experiment(), recorder, tmp_path, Slots())
    old.suggest("a")
    recorder.record_epoch(0, 1, {"validation_accuracy": 0.5})
    recorder.record_release(0)
    old.on_trial_complete("a")
    searching(experiment(), open_recorder(2), tmp_path, Slots()).suggest("b")
    folder = ExperimentFolder(tmp_path).trial(0).root
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(WriterFencedError):
        old.suggest("c")
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert {path.name for path in before} == {"spec.json", "stop"}


@pytest.mark.parametrize("lost", ["absent", "cut", "of another trial"])
def test_the_spec_is_written_again_at_each_hand_out(
    tmp_path: Path, experiment: BuildSpec, open_recorder: OpenRecorder, lost: str
) -> None:
    """Because the driver was killed before it was written, or another driver has written it."""
    spec, recorder = experiment(), open_recorder(1)
    searching(spec, recorder, tmp_path, Slots()).suggest("a")
    path = ExperimentFolder(tmp_path).trial(0).spec
    recorder.close()
    content = path.read_bytes()
    path.unlink()
    if lost != "absent":
        path.write_bytes(content[:40] if lost == "cut" else content.replace(b"64", b"32"))
    searching(spec, open_recorder(2), tmp_path, Slots()).suggest("a")
    assert path.read_bytes() == content
    names = {file.name for file in path.parent.iterdir()}
    assert names == ({"spec.json"} if lost == "absent" else {"spec.json", "stop"})


def test_a_process_that_was_left_behind_is_asked_to_stop(
    tmp_path: Path, experiment: BuildSpec, open_recorder: OpenRecorder
) -> None:
    spec, recorder = experiment(), open_recorder(1)
    searching(spec, recorder, tmp_path, Slots()).suggest("a")
    recorder.record_epoch(0, 1, {"validation_accuracy": 0.5})
    recorder.close()
    left_behind = FolderStorage(tmp_path).stop_signal(0)
    config = searching(spec, open_recorder(2), tmp_path, Slots()).suggest("a")
    assert (config["trial"], config["epoch"]) == (0, 1)
    assert left_behind.asked()
    assert not FolderStorage(tmp_path).stop_signal(0).asked(), "the new process is not"


def test_slots_are_respected_while_they_change(
    tmp_path: Path, experiment: BuildSpec, open_recorder: OpenRecorder
) -> None:
    slots, recorder = Slots(2), open_recorder()
    searcher = searching(experiment(), recorder, tmp_path, slots)
    assert [searcher.suggest(name) is not None for name in "abc"] == [True, True, False]
    slots.count = 3
    assert [searcher.suggest(name) is not None for name in "cd"] == [True, False]
    slots.count = 1
    for name, number in (("a", 0), ("b", 1)):
        finish(searcher, recorder, number, name)
        assert searcher.suggest("e") is None
    finish(searcher, recorder, 2, "c")
    assert searcher.suggest("e")["trial"] == 3
    slots.count = 0
    finish(searcher, recorder, 3, "e")
    assert searcher.suggest("f") is None


def test_waiting_and_restarted_trials_come_first(
    tmp_path: Path, experiment: BuildSpec, open_recorder: OpenRecorder
) -> None:
    spec, recorder = experiment(), open_recorder(1)
    before = searching(spec, recorder, tmp_path, Slots(3))
    for name in "abc":
        before.suggest(name)
    recorder.record_retry(0, ErrorKind.LOST, "its node was lost")
    finish(before, recorder, 1, "b")
    recorder.close()
    recorder = open_recorder(2)
    after = searching(spec, recorder, tmp_path, Slots(9))
    assert [after.suggest(name)["trial"] for name in "abcd"] == [0, 2, 3, 4]
    assert recorder.table.trials[0].state == TrialState.RUNNING


def test_the_search_ends_only_when_no_trial_runs(
    tmp_path: Path, experiment: BuildSpec, open_recorder: OpenRecorder
) -> None:
    spec, recorder = experiment(searcher={"kind": "random", "num_samples": 2}), open_recorder()
    searcher = searching(spec, recorder, tmp_path, Slots(5))
    searcher.suggest("a")
    searcher.suggest("b")
    assert searcher.suggest("c") is None
    assert not searcher.exhausted()
    finish(searcher, recorder, 0, "a")
    assert searcher.suggest("c") is None
    finish(searcher, recorder, 1, "b")
    assert searcher.exhausted()
    assert searcher.suggest("c") == RaySearcher.FINISHED


def test_the_search_ends_without_a_slot(tmp_path: Path, experiment: BuildSpec, open_recorder: OpenRecorder) -> None:
    slots, recorder = Slots(), open_recorder()
    searcher = searching(experiment(searcher={"kind": "random", "num_samples": 1}), recorder, tmp_path, slots)
    searcher.suggest("a")
    slots.count = 0
    assert searcher.suggest("b") is None
    finish(searcher, recorder, 0, "a")
    assert searcher.suggest("b") == RaySearcher.FINISHED
    assert searcher.done


def test_the_search_can_end_while_nothing_runs(
    tmp_path: Path, experiment: BuildSpec, open_recorder: OpenRecorder
) -> None:
    """Tune waits for an idle searcher for ten minutes, so the call of `slots` must be able to end the search."""

    def end_the_search() -> int:
        searcher.finish()
        return 0

    searcher = searching(experiment(), open_recorder(), tmp_path, end_the_search)
    assert searcher.suggest("a") == RaySearcher.FINISHED


def test_the_last_proposals_are_announced(tmp_path: Path, experiment: BuildSpec, open_recorder: OpenRecorder) -> None:
    announced: list[int] = []
    spec, recorder = experiment(), open_recorder()
    searcher = searching(
        spec, recorder, tmp_path, Slots(), on_last=lambda: announced.append(len(recorder.table.trials))
    )
    while run_one(searcher, recorder) is not None:
        pass
    assert announced
    assert announced[0] > 6


def test_no_more_trials_are_proposed_than_wanted(
    tmp_path: Path, experiment: BuildSpec, open_recorder: OpenRecorder
) -> None:
    spec: Any = experiment()
    recorder = open_recorder()
    searcher = searching(spec, recorder, tmp_path, Slots(9), num_samples=3)
    for name in "abcdef":
        searcher.suggest(name)
    assert list(recorder.table.trials) == [0, 1, 2]
    recorder.close()
    recorder = open_recorder(2)
    longer = searching(spec, recorder, tmp_path, Slots(9), num_samples=5)
    for name in "abcdef":
        longer.suggest(name)
    assert list(recorder.table.trials) == [0, 1, 2, 3, 4]
    assert [trial.sample for trial in recorder.table.trials.values()] == uninterrupted(spec, tmp_path)[:5]


def test_trials_that_a_rule_paused_come_after_new_ones(
    tmp_path: Path, experiment: BuildSpec, open_recorder: OpenRecorder
) -> None:
    recorder = open_recorder()
    searcher = searching(experiment(searcher={"kind": "random", "num_samples": 3}), recorder, tmp_path, Slots(9))
    for name, number, reason in (("a", 0, "the rule paused it"), ("b", 1, "")):
        searcher.suggest(name)
        recorder.mark_slot_taken(number)
        recorder.record_epoch(number, 1, {"validation_accuracy": 0.5})
        recorder.record_release(number, reason)
        searcher.on_trial_complete(name)
    assert [searcher.suggest(name)["trial"] for name in "cde"] == [1, 2, 0]
