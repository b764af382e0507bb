"""Finalists: which trials are trained again with fresh seeds, how, and which of them wins."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from search_spaces.experiment import ExperimentSpec, TrialSpec
from search_spaces.layout import BEST
from search_spaces.objective import Objective
from search_spaces.problems import SpecError
from search_spaces.protocol import Directives, TrialState, Winner
from search_spaces.replicates import is_replicate, replicate_number, replicated, trial_of
from search_spaces.storage.folder import FolderStorage
from search_spaces.stored import read_spec
from search_spaces.validation import validate
from tests.support.searches import Search
from tests.support.workers import OpenRecorder
from workers.search.checkpoint_keeper import CheckpointKeeper
from workers.search.finalists import finalists, replicates
from workers.state.fresh_seeds import winner
from workers.state.recorder import Recorder
from workers.state.trial_table import Trial, TrialTable

BuildSearch = Callable[..., Search]
TWICE = {"trials": 2, "seeds": 2}


def searched(search: BuildSearch, values: Sequence[float] = (0.5, 0.8, 0.7), **changes: Any) -> Search:
    """A search all of whose trials have ended with these values."""
    fields = {"searcher": {"kind": "random", "num_samples": len(values)}, "early_stopping": "none", "finalists": TWICE}
    now = search(1, **fields | changes)
    for value in values:
        now.tune.finish(now.tune.start(), value)
    return now


def number_of(trial: Any) -> int:
    return int(trial.config["trial"])


def suggested(folder: Path) -> list[int]:
    return [entry["trial"] for entry in FolderStorage(folder).journal.entries() if entry["event"] == "suggested"]


def test_the_best_trials_are_trained_again_with_fresh_seeds_on_the_same_split(search: BuildSearch) -> None:
    now = searched(search)
    runs = [now.tune.start() for _ in range(4)]
    numbers = [number_of(run) for run in runs]
    assert numbers == [replicate_number(trial, seed) for trial in (1, 2) for seed in (0, 1)]
    specs = [TrialSpec.model_validate_json(now.files(run).spec.read_bytes()) for run in runs]
    originals = [TrialSpec.model_validate_json(now.folder.trial(trial).spec.read_bytes()) for trial in (1, 1, 2, 2)]
    for spec, original in zip(specs, originals, strict=True):
        assert spec == original.model_copy(update={"seed": spec.seed})
    assert len({spec.seed for spec in (*specs, *originals)}) == 6
    assert now.tune.start() is None, "there are no more, and some have not ended"


def test_no_rule_stops_a_replicate_and_neither_searcher_nor_best_trial_learn_of_it(search: BuildSearch) -> None:
    now = searched(search, early_stopping={"kind": "asha", "grace_period": 1, "reduction_factor": 2})
    poor, good = now.tune.start(), now.tune.start()
    now.tune.finish(poor, 0.01)
    now.tune.finish(good, 0.99)
    for run in (poor, good):
        row = now.trials[number_of(run)]
        assert (row.state, row.epoch) == (TrialState.COMPLETED, 4)
    best = now.recorder.table.best()
    assert best is not None
    assert not is_replicate(best.number)
    assert len(now.recorder.table.searched()) == 3
    assert "of 3 earlier trials" in now.verdict_on_the_worst()
    assert len(list(now.recorder.table.history())) == sum(trial.epoch for trial in now.recorder.table.searched())


def test_none_begins_before_every_trial_of_the_search_has_ended(search: BuildSearch) -> None:
    now = search(searcher={"kind": "random", "num_samples": 3}, early_stopping="none", finalists=TWICE)
    first, second, third = (now.tune.start() for _ in range(3))
    now.tune.finish(first, 0.5)
    now.tune.finish(second, 0.6)
    assert now.tune.start() is None
    assert not any(map(is_replicate, now.trials))
    now.tune.finish(third, 0.4)
    assert is_replicate(number_of(now.tune.start()))


def test_a_driver_that_is_killed_continues_and_trains_nothing_twice(search: BuildSearch, tmp_path: Path) -> None:
    now = searched(search)
    done, begun = now.tune.start(), now.tune.start()
    now.tune.finish(done, 0.7)
    now.tune.report(begun, 1, 0.3)
    now.recorder.close()
    fields = {"searcher": {"kind": "random", "num_samples": 3}, "early_stopping": "none", "finalists": TWICE}
    after = search(2, **fields)
    left = [after.tune.start() for _ in range(3)]
    assert next((number_of(run), run.config["epoch"]) for run in left) == (number_of(begun), 1)
    assert number_of(done) not in map(number_of, left)
    for run in left:
        for epoch in range(run.config["epoch"] + 1, 5):
            after.tune.report(run, epoch, 0.6)
    assert after.tune.start() == Searcher.FINISHED
    assert after.callback.outcome is None
    assert sorted(suggested(tmp_path)) == [0, 1, 2, *(replicate_number(t, s) for t in (1, 2) for s in (0, 1))]


def test_a_crash_while_they_are_recorded_loses_none(search: BuildSearch, tmp_path: Path) -> None:
    now = searched(search)
    trial = now.trials[1]
    now.recorder.record_suggestion(replicate_number(1, 0), trial.sample, trial.parameters)
    now.recorder.close()
    fields = {"searcher": {"kind": "random", "num_samples": 3}, "early_stopping": "none", "finalists": TWICE}
    after = search(2, **fields)
    assert sorted(number_of(after.tune.start()) for _ in range(4)) == [
        replicate_number(trial, seed) for trial in (1, 2) for seed in (0, 1)
    ]
    assert len(suggested(tmp_path)) == len(set(suggested(tmp_path))) == 7


def test_they_are_paused_and_canceled_like_trials(search: BuildSearch) -> None:
    now = searched(search)
    first, second = now.tune.start(), now.tune.start()
    now.tune.report(first, 1, 0.5)
    now.service.directives = Directives(slots=4, cancel_trials=[number_of(first)])
    now.callback.poll(now.tune)
    assert now.trials[number_of(first)].state is TrialState.CANCELED
    now.service.directives = Directives(slots=4, stop="pause")
    now.callback.poll(now.tune)
    assert now.trials[number_of(second)].state is TrialState.PAUSED
    assert now.callback.outcome is not None
    assert now.callback.outcome.phase == "paused"
    assert now.tune.start() == Searcher.FINISHED


def test_a_search_that_has_reached_its_goal_has_none(search: BuildSearch) -> None:
    now = searched(search, (0.5, 0.6, 0.8), objective={"goal": 0.7})
    assert now.tune.start() == Searcher.FINISHED
    assert not any(map(is_replicate, now.trials))


def test_more_trials_of_the_search_continue_its_numbers(search: BuildSearch) -> None:
    """The searcher is asked for the fourth trial, whatever replicates there are."""
    now = searched(search)
    for _ in range(4):
        now.tune.finish(now.tune.start(), 0.5)
    now.recorder.close()
    fields = {"searcher": {"kind": "random", "num_samples": 5}, "early_stopping": "none", "finalists": TWICE}
    after = search(2, **fields)
    assert [number_of(after.tune.start()) for _ in range(2)] == [3, 4]


def test_the_weights_of_all_that_may_win_are_kept_until_one_of_them_is_registered(
    search: BuildSearch, tmp_path: Path
) -> None:
    """Also in a search that was extended after a replicate had won."""
    now = searched(search, max_epochs=1)
    won = replicate_number(1, 0)
    now.recorder.record_winner(Winner(trial=won, value=0.7, test_accuracy=0.7, test_loss=None))
    runs = [now.tune.start() for _ in range(4)]
    for number in (1, *map(number_of, runs)):
        (now.folder.trial(number).root / BEST).write_bytes(b"weights")
    for run, value in zip(runs, (0.7, 0.6, 0.8, None), strict=True):
        now.tune.finish(run, value) if value else now.tune.report(run, 1, math.nan)
    kept = {1, *map(number_of, runs[:3])}
    assert {int(path.parent.name) for path in tmp_path.rglob(BEST)} == kept, "the last one diverged"
    keeper = CheckpointKeeper(FolderStorage(tmp_path).artifacts, "best", now.recorder.table)
    keeper.finish(won)
    assert [int(path.parent.name) for path in tmp_path.rglob(BEST)] == [won]


def table_of(
    recorder: Recorder, curves: Sequence[Sequence[float]], state: TrialState = TrialState.COMPLETED
) -> TrialTable:
    for number, curve in enumerate(curves):
        recorder.record_suggestion(number, {}, {})
        for epoch, value in enumerate(curve, 1):
            done = (state, "done") if epoch == len(curve) else None
            recorder.record_epoch(number, epoch, {"validation_accuracy": value}, done)
    return recorder.table


def test_they_are_the_winner_and_then_the_best_by_the_mean_of_their_last_epochs(open_recorder: OpenRecorder) -> None:
    table = table_of(open_recorder(), [[0.9, 0.1, 0.1, 0.1], [0.5, 0.8, 0.2, 0.2], [0.5, 0.6, 0.6, 0.6], [0.4] * 4])
    spec = ExperimentSpec(name="x", finalists={"trials": 3})
    assert finalists(spec, table) == [0, 2, 1]
    assert finalists(ExperimentSpec(name="x", finalists={"trials": 0}), table) == []


def test_a_small_loss_is_good(open_recorder: OpenRecorder) -> None:
    recorder = open_recorder(1, Objective(metric="validation_loss", mode="min"))
    for number, loss in enumerate((0.5, 0.2, 0.3)):
        recorder.record_suggestion(number, {}, {})
        recorder.record_epoch(number, 1, {"validation_loss": loss}, (TrialState.COMPLETED, "done"))
    spec = ExperimentSpec(name="x", objective={"metric": "validation_loss"}, finalists={"trials": 2})
    assert finalists(spec, recorder.table) == [1, 2]


@pytest.mark.parametrize(("trials", "count"), [(23, 0), (24, 6)])
def test_by_default_they_take_at_most_a_quarter_of_the_epochs_of_the_search(
    open_recorder: OpenRecorder, trials: int, count: int
) -> None:
    """Six runs of five epochs are 30, a quarter of the 120 epochs of 24 trials."""
    table = table_of(open_recorder(), [[0.5 + number / 100] * 5 for number in range(trials)])
    assert len(replicates(ExperimentSpec(name="x", max_epochs=5), table)) == count
    assert len(replicates(ExperimentSpec(name="x", max_epochs=5, finalists={"seeds": 1}), table)) == 3, "on request"


def test_one_trial_is_not_trained_again(open_recorder: OpenRecorder) -> None:
    assert replicates(ExperimentSpec(name="x", finalists={}), table_of(open_recorder(), [[0.5]])) == []


def test_one_finalist_is_refused() -> None:
    with pytest.raises(SpecError, match=r"`?finalists\.trials`?: must be 0 or at least 2"):
        validate({"name": "x", "finalists": {"trials": 1}})


def test_stored_specs_without_the_field_have_none() -> None:
    document = ExperimentSpec(name="x").model_dump(mode="json")
    assert read_spec(document).finalists.max_share == 0.25
    del document["finalists"]
    assert read_spec(document).finalists.trials == 0


def decided_by_seeds(spec: ExperimentSpec, table: TrialTable) -> Trial | None:
    """The run that won by fresh seeds; None where the best trial of the search won."""
    won = winner(spec, table)
    assert won is not None
    assert won.trial.number == trial_of(won.run.number)
    return won.run if won.by_fresh_seeds else None


def test_the_trial_with_the_best_mean_over_fresh_seeds_wins_with_its_run_of_the_lowest_loss(
    open_recorder: OpenRecorder,
) -> None:
    recorder = open_recorder()
    table = table_of(recorder, [[0.9], [0.8]])
    spec = ExperimentSpec(name="x", finalists=TWICE)
    runs = {(0, 0): (0.95, 0.1), (0, 1): (0.60, 0.9), (1, 0): (0.80, 0.4), (1, 1): (0.82, 0.5)}
    for index, ((trial, seed), (accuracy, loss)) in enumerate(runs.items()):
        assert decided_by_seeds(spec, table) is None, index
        number = replicate_number(trial, seed)
        recorder.record_suggestion(number, {}, {})
        metrics = {"validation_accuracy": accuracy, "validation_loss": loss}
        recorder.record_epoch(number, 1, metrics, (TrialState.COMPLETED, "done"))
    chosen = decided_by_seeds(spec, table)
    assert chosen is not None
    assert replicated(chosen.number) == (1, 0)


def replicate(recorder: Recorder, trial: int, seed: int, state: TrialState, value: float = 0.5) -> None:
    number = replicate_number(trial, seed)
    recorder.record_suggestion(number, {}, {})
    recorder.record_epoch(number, 1, {"validation_accuracy": value}, (state, "done"))


def test_a_better_trial_that_was_found_later_is_not_beaten_by_earlier_replicates(open_recorder: OpenRecorder) -> None:
    """An experiment that was extended may end by its goal or its budget before the new best is trained again."""
    recorder = open_recorder()
    table = table_of(recorder, [[0.9], [0.8]])
    spec = ExperimentSpec(name="x", finalists=TWICE)
    for trial, seed in ((0, 0), (0, 1), (1, 0), (1, 1)):
        replicate(recorder, trial, seed, TrialState.COMPLETED)
    assert decided_by_seeds(spec, table) is not None
    recorder.record_suggestion(2, {}, {})
    recorder.record_epoch(2, 1, {"validation_accuracy": 0.95}, (TrialState.COMPLETED, "goal reached"))
    assert decided_by_seeds(spec, table) is None
    for seed in range(2):
        replicate(recorder, 2, seed, TrialState.COMPLETED, 0.95)
    chosen = decided_by_seeds(spec, table)
    assert chosen is not None
    assert replicated(chosen.number)[0] == 2


@pytest.mark.parametrize("finalists", [2, 3])
@pytest.mark.parametrize(("state", "decided"), [("DIVERGED", True), ("ERROR", False), ("CANCELED", False)])
def test_the_best_trial_is_out_if_it_diverges_with_a_seed_but_not_if_a_replicate_fails_or_is_canceled(
    open_recorder: OpenRecorder, finalists: int, state: str, decided: bool
) -> None:
    recorder = open_recorder()
    table = table_of(recorder, [[0.9], [0.8], [0.7]][:finalists])
    spec = ExperimentSpec(name="x", finalists={"trials": finalists, "seeds": 2})
    for trial, seed in [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)][: 2 * finalists - 1]:
        replicate(recorder, trial, seed, TrialState.COMPLETED)
    replicate(recorder, 0, 1, TrialState(state))
    chosen = decided_by_seeds(spec, table)
    assert (chosen and replicated(chosen.number)) == ((1, 0) if decided else None)


def test_the_best_trial_wins_where_it_is_the_only_one_that_does_not_diverge_with_a_seed(
    open_recorder: OpenRecorder,
) -> None:
    recorder = open_recorder()
    table = table_of(recorder, [[0.9], [0.8]])
    for seed in range(2):
        replicate(recorder, 0, seed, TrialState.COMPLETED)
        replicate(recorder, 1, seed, TrialState.DIVERGED)
    won = winner(ExperimentSpec(name="x", finalists=TWICE), table)
    assert won is not None
    assert (won.trial.number, won.by_fresh_seeds) == (0, False)
