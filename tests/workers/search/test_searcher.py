"""The searcher: a replayed journal proposes what an uninterrupted run does; slots and waiting trials are respected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher as TuneSearcher

from search_spaces.experiment import ExperimentSpec, TrialSpec
from search_spaces.protocol import ErrorKind, TrialState
from search_spaces.sampling import combinations
from workers.search.searcher import Searcher
from workers.state.journal import WriterFencedError
from workers.state.recorder import Recorder
from workers.trial.worker import SPEC, STOP, StopSignal

OpenRecorder = Callable[..., Recorder]
Build = Callable[..., ExperimentSpec]

GRID = {
    "optimizer": {"choice": [{"kind": "adam"}, {"kind": "sgd", "momentum": {"choice": [0.0, 0.9]}}]},
    "batch_size": {"choice": [64, 128]},
}
SEARCHES = {
    "random": {"searcher": {"kind": "random", "num_samples": 12}},
    "tpe": {"searcher": {"kind": "tpe", "num_samples": 12, "startup_trials": 3}},
    "grid": {"searcher": "grid", "search_space": GRID},
}


class Slots:
    """How many trials may run, to be changed as the service would."""

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self.looks = 0

    def __call__(self) -> int:
        self.looks += 1
        return self.count


def searching(spec: ExperimentSpec, recorder: Recorder, folder: Path, slots: Callable[[], int]) -> Searcher:
    return Searcher(spec, recorder, folder, {"data_root": "/data"}, lambda: spec.num_samples, slots, lambda: None)


def run_one(searcher: Searcher, recorder: Recorder) -> int | None:
    """Hand out a trial, train it for an epoch or two by a formula, end it; None when there are no more."""
    config = searcher.suggest("tune-id")
    if config == TuneSearcher.FINISHED:
        return None
    number = int(config["trial"])
    finish(searcher, recorder, number)
    return number


def finish(searcher: Searcher, recorder: Recorder, number: int, name: str = "tune-id") -> None:
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


def undisturbed(spec: ExperimentSpec, folder: Path) -> list[dict[str, float]]:
    folder.mkdir(exist_ok=True)
    recorder = Recorder(folder / "whole.jsonl", spec.objective)
    searcher = searching(spec, recorder, folder / "whole", Slots())
    while run_one(searcher, recorder) is not None:
        pass
    recorder.close()
    return [trial.sample for trial in recorder.table.trials.values()]


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_replayed_journal_goes_on_as_if_nothing_had_happened(
    kind: str, tmp_path: Path, experiment: Build, open_recorder: OpenRecorder
) -> None:
    spec = experiment(**SEARCHES[kind])
    expected = undisturbed(spec, tmp_path)
    attempt = 0
    recorder = open_recorder(1)
    while len(recorder.table.trials) < len(expected):  # a new driver for every second trial
        attempt += 1
        recorder.close()
        recorder = open_recorder(attempt)
        searcher = searching(spec, recorder, tmp_path / "trials", Slots())
        for _ in range(2):
            run_one(searcher, recorder)
    assert attempt > 2
    assert [trial.sample for trial in recorder.table.trials.values()] == expected


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_samples_follow_the_seed_and_differ(kind: str, tmp_path: Path, experiment: Build) -> None:
    first = undisturbed(experiment(**SEARCHES[kind]), tmp_path / "a")
    again = undisturbed(experiment(**SEARCHES[kind]), tmp_path / "b")
    other = undisturbed(experiment(**SEARCHES[kind], seed=6), tmp_path / "c")
    assert first == again
    assert first != other
    assert len({repr(sample) for sample in first}) == len(first)


def test_tpe_learns_from_trials_that_ended(tmp_path: Path, experiment: Build) -> None:
    """With results and without, the first proposals are equal, later ones are not."""
    spec = experiment(**SEARCHES["tpe"])
    informed = undisturbed(spec, tmp_path)
    recorder = Recorder(tmp_path / "blind.jsonl", spec.objective)
    searcher = searching(spec, recorder, tmp_path / "blind", Slots(100))
    for name in range(12):
        searcher.suggest(str(name))
    recorder.close()
    blind = [trial.sample for trial in recorder.table.trials.values()]
    assert blind[:3] == informed[:3]
    assert blind[3:] != informed[3:]


def test_only_living_domains_are_sampled(tmp_path: Path, experiment: Build) -> None:
    samples = undisturbed(experiment(), tmp_path)
    assert {sample["optimizer"] for sample in samples} == {0, 1}
    for sample in samples:
        dead = 1 - int(sample["optimizer"])
        assert not any(path.startswith(f"optimizer[{dead}]") for path in sample)


def test_a_grid_yields_each_combination_once_and_ends(
    tmp_path: Path, experiment: Build, open_recorder: OpenRecorder
) -> None:
    spec = experiment(searcher={"kind": "grid", "num_samples": 100}, search_space=GRID)
    assert spec.num_samples == 6
    assert undisturbed(spec, tmp_path) == list(combinations(spec.search_space))
    recorder = open_recorder()
    generous = Searcher(spec, recorder, tmp_path / "trials", {}, lambda: 100, Slots(), lambda: None)
    handed_out = [run_one(generous, recorder) for _ in range(9)]
    assert handed_out == [0, 1, 2, 3, 4, 5, None, None, None]


def test_the_bound_spec_lies_in_the_trials_folder(
    tmp_path: Path, experiment: Build, open_recorder: OpenRecorder
) -> None:
    spec, recorder = experiment(), open_recorder()
    config = searching(spec, recorder, tmp_path / "trials", Slots()).suggest("a")
    bound = TrialSpec.model_validate_json((Path(config["folder"]) / "spec.json").read_text())
    assert config == {"trial": 0, "folder": str(tmp_path / "trials" / "00000"), "epoch": 0, "data_root": "/data"}
    assert bound == spec.bind(recorder.table.trials[0].sample, 0)
    assert recorder.table.trials[0].parameters == spec.parameters(bound)


def test_an_earlier_driver_changes_no_spec_of_its_successor(
    tmp_path: Path, experiment: Build, open_recorder: OpenRecorder
) -> None:
    """It proposes something else: what its proposals follow from was lost and trained again."""
    old = searching(experiment(seed=6), open_recorder(1), tmp_path, Slots())
    new = searching(experiment(), open_recorder(2), tmp_path, Slots())
    spec = Path(new.suggest("a")["folder"]) / SPEC
    content = spec.read_bytes()
    with pytest.raises(WriterFencedError):
        old.suggest("a")
    assert spec.read_bytes() == content


def test_an_earlier_driver_hands_out_no_waiting_trial(
    tmp_path: Path, experiment: Build, open_recorder: OpenRecorder
) -> None:
    recorder = open_recorder(1)
    old = searching(experiment(), recorder, tmp_path, Slots())
    old.suggest("a")
    recorder.record_epoch(0, 1, {"validation_accuracy": 0.5})
    recorder.record_release(0)
    old.on_trial_complete("a")
    folder = Path(searching(experiment(), open_recorder(2), tmp_path, Slots()).suggest("b")["folder"])
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(WriterFencedError):
        old.suggest("c")
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert {path.name for path in before} == {SPEC, STOP}


@pytest.mark.parametrize("lost", ["absent", "cut", "of another"])
def test_a_spec_follows_from_the_journal_at_each_hand_out(
    tmp_path: Path, experiment: Build, open_recorder: OpenRecorder, lost: str
) -> None:
    """The driver was killed before it was written, or another has written it."""
    spec, recorder = experiment(), open_recorder(1)
    path = Path(searching(spec, recorder, tmp_path, Slots()).suggest("a")["folder"]) / SPEC
    recorder.close()
    content = path.read_bytes()
    path.unlink()
    if lost != "absent":
        path.write_bytes(content[:40] if lost == "cut" else content.replace(b"64", b"32"))
    searching(spec, open_recorder(2), tmp_path, Slots()).suggest("a")
    assert path.read_bytes() == content
    assert {file.name for file in path.parent.iterdir()} == {SPEC, STOP}


def test_a_slot_that_was_left_behind_is_asked_to_leave(
    tmp_path: Path, experiment: Build, open_recorder: OpenRecorder
) -> None:
    spec, recorder = experiment(), open_recorder(1)
    folder = Path(searching(spec, recorder, tmp_path, Slots()).suggest("a")["folder"])
    recorder.record_epoch(0, 1, {"validation_accuracy": 0.5})
    recorder.close()
    left_behind = StopSignal(folder / STOP)
    config = searching(spec, open_recorder(2), tmp_path, Slots()).suggest("a")
    assert (config["trial"], config["epoch"]) == (0, 1)
    assert left_behind()
    assert not StopSignal(folder / STOP)(), "and the new one is not"


def test_slots_are_respected_while_they_change(tmp_path: Path, experiment: Build, open_recorder: OpenRecorder) -> None:
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


def test_waiting_and_retried_trials_come_first(tmp_path: Path, experiment: Build, open_recorder: OpenRecorder) -> None:
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


def test_it_is_finished_only_when_nothing_runs(tmp_path: Path, experiment: Build, open_recorder: OpenRecorder) -> None:
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
    assert searcher.suggest("c") == TuneSearcher.FINISHED


def test_it_is_finished_without_a_slot_too(tmp_path: Path, experiment: Build, open_recorder: OpenRecorder) -> None:
    slots, recorder = Slots(), open_recorder()
    searcher = searching(experiment(searcher={"kind": "random", "num_samples": 1}), recorder, tmp_path, slots)
    searcher.suggest("a")
    slots.count = 0
    assert searcher.suggest("b") is None
    finish(searcher, recorder, 0, "a")
    assert searcher.suggest("b") == TuneSearcher.FINISHED
    assert searcher.done


def test_an_order_is_heard_while_nothing_runs(tmp_path: Path, experiment: Build, open_recorder: OpenRecorder) -> None:
    """Tune blocks on an idle searcher for ten minutes; its question for slots must be able to end the search."""

    def ordered_to_stop() -> int:
        searcher.finish()
        return 0

    searcher = searching(experiment(), open_recorder(), tmp_path, ordered_to_stop)
    assert searcher.suggest("a") == TuneSearcher.FINISHED


def test_the_finalist_is_announced_once_the_last_are_handed_out(
    tmp_path: Path, experiment: Build, open_recorder: OpenRecorder
) -> None:
    announced: list[int] = []
    spec, recorder = experiment(), open_recorder()
    searcher = Searcher(
        spec, recorder, tmp_path, {}, lambda: 12, Slots(), lambda: announced.append(len(recorder.table.trials))
    )
    while run_one(searcher, recorder) is not None:
        pass
    assert announced
    assert announced[0] > 6


def test_nothing_is_proposed_beyond_an_extended_count(
    tmp_path: Path, experiment: Build, open_recorder: OpenRecorder
) -> None:
    spec: Any = experiment()
    recorder = open_recorder()
    searcher = Searcher(spec, recorder, tmp_path, {}, lambda: 3, Slots(9), lambda: None)
    for name in "abcdef":
        searcher.suggest(name)
    assert list(recorder.table.trials) == [0, 1, 2]
    recorder.close()
    recorder = open_recorder(2)
    longer = Searcher(spec, recorder, tmp_path, {}, lambda: 5, Slots(9), lambda: None)
    for name in "abcdef":
        longer.suggest(name)
    assert list(recorder.table.trials) == [0, 1, 2, 3, 4]
    assert [trial.sample for trial in recorder.table.trials.values()] == undisturbed(spec, tmp_path / "whole")[:5]
