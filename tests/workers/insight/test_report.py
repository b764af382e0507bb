"""The insight of searches whose truth is planted, from their journals and files."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.insight import Finding, Importance, Insight
from search_spaces.layout import NAMES
from search_spaces.protocol import TrialState, Winner
from search_spaces.replicates import replicate_number
from search_spaces.searchers.base import SearchProblem
from search_spaces.storage.folder import FolderStorage
from search_spaces.validation import validate
from tests.support.insights import hiding_scores
from tests.support.planted import outcomes
from tests.workers.insight.conftest import Plant
from workers.insight import report
from workers.insight.evidence import gather
from workers.insight.next_spec import next_spec
from workers.insight.path import winning_path
from workers.insight.report import insight_of, make_insight
from workers.insight.sureness import sureness
from workers.state.outcomes import ValidationOutcomes
from workers.state.recorder import Recorder

SPACE: dict[str, Any] = {
    "optimizer": {
        "choice": [
            {"kind": "sgd", "lr": {"loguniform": [0.01, 1.0]}},
            {"kind": "adam", "lr": 0.001},
        ]
    },
    "label_smoothing": {"uniform": [0, 0.2]},
}
Trials = Sequence[tuple[Mapping[str, float], Sequence[float], Sequence[bool] | None]]


def spec_of(**changes: Any) -> ExperimentSpec:
    return ExperimentSpec.model_validate({"name": "planted", "search_space": SPACE, "max_epochs": 3} | changes)


def trials_of(count: int, accuracies: Sequence[float], images: int = 300, seed: int = 0) -> Trials:
    """The rate decides: the larger, the better; every third trial has adam, which is bad."""
    random = np.random.default_rng(seed)
    right = outcomes(accuracies, images, random)
    found: list[tuple[Mapping[str, float], Sequence[float], Sequence[bool]]] = []
    for number in range(count):
        value = float(right[number].mean())
        place = (accuracies[number] - min(accuracies)) / max(1e-9, max(accuracies) - min(accuracies))
        smoothing = float(random.uniform(0, 0.2))
        sample: dict[str, float] = {"optimizer": 0, "optimizer[0].lr": 0.01 * 100**place, "label_smoothing": smoothing}
        if number % 3 == 2:
            sample = {"optimizer": 1, "label_smoothing": smoothing}
        found.append((sample, [value - 0.2, value - 0.1, value], right[number].tolist()))
    return found


@pytest.fixture(scope="module")
def planted() -> Trials:
    """40 trials: a third of them bad (adam), the others the better the larger the rate."""
    random = np.random.default_rng(1)
    accuracies = [0.6 if number % 3 == 2 else float(random.uniform(0.8, 0.97)) for number in range(40)]
    accuracies[4], accuracies[6] = 0.975, 0.974
    return trials_of(40, accuracies)


def test_the_insight_of_a_search_why_how_sure_and_what_next(plant: Plant, planted: Trials) -> None:
    made = make_insight(spec_of(), plant(spec_of(), planted, test_accuracy=0.96))
    values = [curve[-1] for _, curve, _ in planted]
    winner = int(np.argmax(values))
    assert (made.choice.trial, made.choice.value, made.choice.epoch) == (winner, values[winner], 3)
    assert set(made.choice.parameters) == {"optimizer.kind", "optimizer.lr", "label_smoothing"}
    sure = made.sureness
    assert (sure.validation_images, sure.compared, sure.test_images, sure.notes) == (300, 40, 400, [])
    assert sure.ties is not None
    assert {4, 6} - {winner} <= set(sure.ties)
    assert not {number for number in range(40) if number % 3 == 2} & set(sure.ties)
    assert sure.expected is not None
    assert sure.expected.value < made.choice.value
    assert sure.test is not None
    assert sure.test.low < 0.96 < sure.test.high
    assert sure.overtuned is False
    every, within = made.importance.groups
    assert [bar.name for bar in every.bars] == ["optimizer", "label_smoothing"]
    assert [bar.noise for bar in every.bars] == [False, True]
    assert (within.within, [(bar.name, bar.noise) for bar in within.bars]) == (
        "optimizer = sgd",
        [("optimizer.lr", False)],
    )
    assert made.path is not None
    assert [step.names for step in made.path.steps] == [["optimizer"], ["label_smoothing"]]
    assert made.path.steps[0].low > 0.2, "adam, the default, has 0.6"
    assert abs(made.path.steps[1].gain) < 0.05, "smoothing does nothing"
    assert sum(step.gain for step in made.path.steps) == pytest.approx(made.path.end - made.path.start)
    training = validate(made.path.spec)
    points = [training.bind(sample, 0) for sample in samples_of(training)]
    assert [point.hyperparameters.optimizer.kind for point in points] == ["adam", "sgd", "sgd"]
    assert points[-1] == spec_of().bind(planted[winner][0], 0)
    assert [(finding.kind, finding.subject) for finding in made.space] == [
        ("never-won", "optimizer"),
        ("at-bound", "optimizer.lr"),
    ]
    assert made.next.changes[0].startswith("optimizer.lr up to ")
    assert made.next.changes[1] == "optimizer without adam"
    following = validate(made.next.spec)
    optimizer: Any = following.search_space.optimizer
    assert (optimizer.kind, optimizer.lr.low, optimizer.lr.high) == ("sgd", 0.01, 10)
    assert following.name == "planted-next"


def samples_of(spec: ExperimentSpec) -> Iterator[Mapping[str, float]]:
    """What its searcher proposes."""
    algorithm = spec.searcher.algorithm(SearchProblem(spec.search_space, 1, spec.seed))
    for number in range(spec.num_samples):
        sample = algorithm.propose(number)
        assert sample is not None
        yield sample


def test_all_of_the_path_is_trained_whatever_reaches_the_goal(plant: Plant, planted: Trials) -> None:
    spec = spec_of(objective={"goal": 0.5})
    path = winning_path(gather(spec, plant(spec, planted, test_accuracy=0.96)))
    assert path is not None
    training = validate(path.spec)
    assert (training.objective.goal, training.objective.metric) == (None, spec.objective.metric)
    assert training.searcher.kind == "random"
    assert len(training.searcher.initial) == training.num_samples == training.finalists.trials  # as `trained` asks for


def test_an_insight_that_has_no_time_left_says_what_is_missing(plant: Plant, planted: Trials) -> None:
    made = insight_of(gather(spec_of(), plant(spec_of(), planted[:12], test_accuracy=0.9)), within_s=0)
    assert "importance was not computed: what came before it took all the time" in made.notes
    assert made.choice.value == max(curve[-1] for _, curve, _ in planted[:12])


def test_it_is_the_same_again_and_survives_json(plant: Plant, planted: Trials) -> None:
    storage = plant(spec_of(), planted[:12], test_accuracy=0.9)
    made = make_insight(spec_of(), storage)
    assert Insight.model_validate_json(made.model_dump_json()) == made == make_insight(spec_of(), storage)


def test_a_test_result_that_is_much_lower_is_overtuned(plant: Plant, planted: Trials) -> None:
    assert sureness(gather(spec_of(), plant(spec_of(), planted, 0.8, test_images=2000))).overtuned is True


def test_a_search_of_version_0_1_says_what_is_not_known(plant: Plant, planted: Trials) -> None:
    storage = plant(spec_of(), [(sample, curve, None) for sample, curve, _ in planted])
    sure = sureness(gather(spec_of(), storage))
    assert (sure.ties, sure.expected, sure.test, sure.overtuned) == (None, None, None, None)
    assert sure.notes == [
        "the winner cannot be compared: which validation images it got right was not recorded",
        "the winner was not evaluated on the test set",
    ]


def test_trials_without_outcomes_are_left_out_and_counted(plant: Plant, planted: Trials) -> None:
    winner = int(np.argmax([curve[-1] for _, curve, _ in planted]))
    fewer = [
        (sample, curve, right if number in {winner, 1, 3} else None)
        for number, (sample, curve, right) in enumerate(planted)
    ]
    sure = sureness(gather(spec_of(), plant(spec_of(), fewer)))
    assert sure.compared == 3
    assert sure.notes[0].startswith("37 trials are not compared")


def test_a_small_loss_is_not_compared_by_images(plant: Plant, planted: Trials) -> None:
    spec = spec_of(objective={"metric": "validation_loss"})
    sure = sureness(gather(spec, plant(spec, planted)))
    assert sure.ties is None
    assert "does not tell the smaller loss" in sure.notes[0]


def test_the_importance_of_few_trials_is_not_computed(plant: Plant, planted: Trials) -> None:
    made = make_insight(spec_of(), plant(spec_of(), planted[:12]))
    assert made.importance.groups == []
    assert made.importance.note == "too few trials: 30 are needed, and 12 finished an epoch"


def test_trials_without_a_value_are_counted_beside_those_with_one(plant: Plant, planted: Trials) -> None:
    diverged = [(sample, [math.nan], None) for sample, _, _ in planted[10:12]]
    made = make_insight(spec_of(), plant(spec_of(), [*planted[:10], *diverged]))
    assert (made.choice.trials, made.choice.without_value) == (10, 2)
    assert made.importance.note == "too few trials: 30 are needed, and 12 finished an epoch"


@pytest.mark.parametrize(
    ("searcher", "trials", "notes"),
    [
        ({}, 2, ["every configuration of the search space was tried: 2 trials of num_samples=9"]),
        ({}, 1, []),
        ({"repeat_configurations": True}, 2, []),
        ({"num_samples": 2}, 2, []),
    ],
)
def test_an_insight_says_that_the_search_space_was_too_small(
    plant: Plant, searcher: dict[str, Any], trials: int, notes: list[str]
) -> None:
    space = {"batch_size": {"choice": [16, 32, 16]}}
    spec = spec_of(search_space=space, searcher={"kind": "random", "num_samples": 9, **searcher}, max_epochs=1)
    made = make_insight(spec, plant(spec, [({"batch_size": number}, [0.5], None) for number in range(trials)]))
    assert made.notes == notes


def test_one_trial_of_a_fixed_spec(plant: Plant) -> None:
    spec = ExperimentSpec(name="fixed", max_epochs=1)
    made = make_insight(spec, plant(spec, [({}, [0.5], [True, False])], test_accuracy=0.5))
    assert (made.choice.parameters, made.sureness.ties, made.next.spec) == ({}, [], None)
    assert made.importance.note == "the spec searches no hyperparameter"


def test_a_search_without_a_value_has_no_insight(plant: Plant) -> None:
    with pytest.raises(ValueError, match="no trial has a value"):
        make_insight(spec_of(), plant(spec_of(), [({"optimizer": 1, "label_smoothing": 0.1}, [float("nan")], None)]))


def test_a_missing_report_on_the_data_costs_only_the_interval(plant: Plant, planted: Trials) -> None:
    storage = plant(spec_of(), planted, test_accuracy=0.9)
    storage.artifacts.remove(NAMES.data_report)
    sure = sureness(gather(spec_of(), storage))
    assert sure.test is None
    assert sure.notes == ["the number of test images is not known, so the test accuracy has no interval"]


def test_a_slow_part_costs_only_itself(plant: Plant, planted: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def slow(_: Any) -> Importance:
        released.wait()
        return Importance()

    monkeypatch.setattr(report, "important", slow)
    try:
        evidence = gather(spec_of(), plant(spec_of(), planted[:12], test_accuracy=0.9))
        made = insight_of(evidence, {**report.LIMITS_S, "importance": 0.01})
    finally:
        released.set()
    assert made.notes == ["importance was not computed: it took more than 0.01 s"]
    assert (made.importance.groups, made.sureness.compared, made.sureness.test_images) == ([], 12, 400)


def test_a_part_that_fails_costs_only_itself(plant: Plant, planted: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no such number")

    monkeypatch.setattr(report, "sureness", fail)
    made = make_insight(spec_of(), plant(spec_of(), planted, test_accuracy=0.9))
    assert made.notes == ["sureness was not computed: it failed: ValueError('no such number')"]
    assert made.sureness.ties is None
    assert made.importance.groups
    assert made.next.changes


def at_bound(bound: float) -> Finding:
    return Finding(kind="at-bound", text="at its bound", figures={"bound": bound})


def test_only_a_suggestion_that_is_not_valid_is_left_out() -> None:
    """Momentum must stay below 1, no number is larger than the largest, and the third has no figures."""
    space = {
        "optimizer": {"kind": "sgd", "lr": {"loguniform": [0.01, 1.0]}, "momentum": {"uniform": [0.0, 0.9999]}},
        "gradient_clip_norm": {"uniform": [0.0, 1.7e308]},
        "label_smoothing": {"uniform": [0.0, 0.2]},
    }
    found = {
        "optimizer.momentum": at_bound(0.9999),
        "gradient_clip_norm": at_bound(1.7e308),
        "label_smoothing": Finding(kind="at-bound", text="at its bound", figures={}),
        "optimizer.lr": at_bound(1.0),
    }
    suggested = next_spec(ExperimentSpec.model_validate({"name": "t", "search_space": space}), found, [])
    assert suggested.changes == ["optimizer.lr up to 10"]
    optimizer: Any = validate(suggested.spec).search_space.optimizer
    assert optimizer.lr.high == 10


@pytest.mark.parametrize(
    ("metric", "following"),
    [
        ("validation_accuracy", "validation_balanced_accuracy"),
        ("validation_loss", "validation_balanced_accuracy"),
        ("validation_balanced_accuracy", "validation_balanced_accuracy"),
        ("validation_macro_f1", "validation_macro_f1"),
    ],
)
def test_the_next_spec_where_classes_are_hidden_has_an_objective_that_sees_them(metric: str, following: str) -> None:
    spec = spec_of(objective={"metric": metric, "goal": 0.5})
    objective = validate(next_spec(spec, {}, [], hides_classes=True).spec).objective
    assert (objective.metric, objective.mode) == (following, "max")
    assert objective.goal == (0.5 if metric == following else None)


def test_the_insight_says_that_an_accuracy_hides_classes_and_the_next_spec_looks_at_all_classes(
    plant: Plant, planted: Trials
) -> None:
    storage = plant(spec_of(), planted[:12], test_accuracy=0.77)
    winner = make_insight(spec_of(), storage).choice.trial
    storage.artifacts.write(NAMES.scores, hiding_scores(winner).model_dump_json().encode())
    made = make_insight(spec_of(), storage)
    assert made.scores == hiding_scores(winner)
    assert made.warning == (
        "the validation accuracy of 0.77 hides a balanced accuracy of 0.27: 3 classes are seldom recognized "
        "(recall: knife 0.00, spoon 0.00, plate 0.10)"
    )
    assert made.next.changes[-3:] == [
        "objective.metric validation_balanced_accuracy",
        "class_weights none or balanced",
        "balanced_sampling false or true",
    ]
    following = validate(made.next.spec)
    assert (following.objective.metric, following.objective.mode) == ("validation_balanced_accuracy", "max")


def test_the_scores_of_an_earlier_winner_are_not_those_of_this_one(plant: Plant, planted: Trials) -> None:
    storage = plant(spec_of(), planted[:12], test_accuracy=0.77)
    winner = make_insight(spec_of(), storage).choice.trial
    storage.artifacts.write(NAMES.scores, hiding_scores(winner + 1).model_dump_json().encode())
    made = make_insight(spec_of(), storage)
    assert (made.scores, made.warning) == (None, "")


def test_the_replicates_say_who_won_only_if_the_best_trial_was_trained_again(plant: Plant, planted: Trials) -> None:
    spec = spec_of(finalists={"trials": 2, "seeds": 2})
    storage = plant(spec, planted[:6])
    table = gather(spec, storage)
    best, second = table.trials[0], table.trials[1]
    recorder = Recorder(storage.journal, spec.objective, 2)
    for trial, base in ((best, 0.8), (second, 0.9)):
        assert make_insight(spec, storage).replication is None
        for seed in range(2):
            number = replicate_number(trial.number, seed)
            recorder.record_suggestion(number, trial.sample, trial.parameters)
            metrics = {"validation_accuracy": base + seed / 100}
            recorder.record_epoch(number, 1, metrics, (TrialState.COMPLETED, "done"))
    found = make_insight(spec, storage).replication
    assert found is not None
    assert (found.chosen, [one.trial for one in found.finalists]) == (second.number, [second.number, best.number])
    assert (found.finalists[0].mean, found.expected) == pytest.approx((0.905, 0.905))
    later = recorder.table.trials[second.number]
    recorder.record_suggestion(6, later.sample, later.parameters)
    recorder.record_epoch(6, 1, {"validation_accuracy": 0.999}, (TrialState.COMPLETED, "goal reached"))
    recorder.close()
    assert make_insight(spec, storage).replication is None


#: Which of 12 validation images runs get right.
RUNS = {True: [True] * 12, False: [True] * 6 + [False] * 6}


def with_fresh_seeds(storage: FolderStorage, spec: ExperimentSpec, good: Mapping[int, Sequence[bool]]) -> Recorder:
    """Trains the trials again: for each seed whether it gets all images right. All of them have the same loss, so the
    first seed is registered."""
    recorder = Recorder(storage.journal, spec.objective, 2)
    for trial, seeds in good.items():
        for seed, is_good in enumerate(seeds):
            number, right = replicate_number(trial, seed), RUNS[is_good]
            of = recorder.table.trials[trial]
            recorder.record_suggestion(number, of.sample, of.parameters)
            metrics = {"validation_accuracy": sum(right) / 12, "validation_loss": 0.5}
            recorder.record_epoch(number, 1, metrics, (TrialState.COMPLETED, "done"))
            content = ValidationOutcomes(1, 0.1, right).encode()
            storage.artifacts.write(NAMES.trial(number).validation, content)
    return recorder


def test_the_insight_is_of_the_trial_that_fresh_seeds_chose(plant: Plant) -> None:
    """Trial 1 is the best of the search, but trial 0 has the better mean over fresh seeds."""
    spec = spec_of(finalists={"trials": 2, "seeds": 2}, max_epochs=1)
    samples = [{"optimizer": 0, "optimizer[0].lr": rate, "label_smoothing": 0.1} for rate in (0.02, 0.5)]
    rights = [[True] * 10 + [False] * 2, [True] * 11 + [False]]
    trials = [(sample, [sum(right) / 12], right) for sample, right in zip(samples, rights, strict=True)]
    storage = plant(spec, trials)
    recorder = with_fresh_seeds(storage, spec, {0: [True, True], 1: [False, True]})
    run = replicate_number(0, 0)
    recorder.record_winner(Winner(trial=run, value=1.0, test_accuracy=39 / 40, test_loss=0.1))
    recorder.close()
    made = make_insight(spec, storage)
    assert (made.choice.trial, made.choice.run, made.choice.best_of_search) == (0, run, 1)
    assert (made.choice.value, made.choice.epoch) == (1.0, 1)
    assert made.choice.parameters["optimizer.lr"] == pytest.approx(0.02)
    assert made.replication is not None
    assert made.replication.chosen == 0
    assert made.curves[0].trial == 0
    sure = made.sureness
    assert sure.test is not None
    assert sure.expected is not None
    assert sure.test.value == 39 / 40
    assert sure.expected.value > 11 / 12  # trial 0 with fresh seeds has all images right, in the search it had 10 of 12
    assert sure.overtuned is False


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_seed_tells_nothing_of_other_seeds(plant: Plant, seeds: int) -> None:
    """There is no interval then, and no value to expect of one more seed: that of the only one was chosen."""
    spec = spec_of(finalists={"trials": 2, "seeds": seeds}, max_epochs=1)
    samples = [{"optimizer": 0, "optimizer[0].lr": rate, "label_smoothing": 0.1} for rate in (0.02, 0.5)]
    rights = [[True] * 10 + [False] * 2, [True] * 11 + [False]]
    storage = plant(spec, [(sample, [sum(right) / 12], right) for sample, right in zip(samples, rights, strict=True)])
    with_fresh_seeds(storage, spec, {0: [True] * seeds, 1: [False] * seeds}).close()
    made = make_insight(spec, storage)
    found = made.replication
    assert found is not None
    assert (found.chosen, found.finalists[0].mean) == (0, 1.0)
    known = seeds > 1
    shown = (found.expected, found.difference, found.finalists[0].accuracy, found.finalists[1].difference)
    assert [one is not None for one in shown] == [known] * 4
    assert all(0 <= one.accuracy.low <= one.accuracy.high <= 1 for one in found.finalists if one.accuracy)


def test_a_single_finalist_is_left_where_the_best_trial_diverges_with_a_fresh_seed(plant: Plant) -> None:
    spec = spec_of(finalists={"trials": 2, "seeds": 2}, max_epochs=1)
    sample = {"optimizer": 1, "label_smoothing": 0.1}
    trials = [(sample, [sum(right) / 12], right) for right in ([True] * 12, [True] * 11 + [False])]
    storage = plant(spec, trials)
    recorder = with_fresh_seeds(storage, spec, {1: [True, True]})
    for seed in range(2):
        number, of = replicate_number(0, seed), recorder.table.trials[0]
        recorder.record_suggestion(number, of.sample, of.parameters)
        recorder.record_epoch(number, 1, {"validation_accuracy": 0.1}, (TrialState.DIVERGED, "the loss is not finite"))
    run = replicate_number(1, 0)
    recorder.record_winner(Winner(trial=run, value=1.0, test_accuracy=39 / 40, test_loss=0.1))
    recorder.close()
    made = make_insight(spec, storage)
    assert (made.choice.trial, made.choice.run, made.choice.best_of_search) == (1, run, 0)
    assert made.replication is not None
    assert ([one.trial for one in made.replication.finalists], made.replication.difference) == ([1], None)


@pytest.mark.parametrize(("others", "ties"), [([False, True], [1]), ([False, False], [])])
def test_a_finalist_is_distinguished_only_where_the_difference_over_fresh_seeds_is(
    plant: Plant, others: Sequence[bool], ties: list[int]
) -> None:
    """In the search, trial 1 was far worse on the same images, which seeds may have done."""
    spec = spec_of(finalists={"trials": 2, "seeds": 2}, max_epochs=1)
    sample = {"optimizer": 1, "label_smoothing": 0.1}
    trials = [(sample, [sum(right) / 12], right) for right in ([True] * 12, [True] * 4 + [False] * 8)]
    storage = plant(spec, trials)
    with_fresh_seeds(storage, spec, {0: [True, True], 1: others}).close()
    made = make_insight(spec, storage)
    assert made.replication is not None
    assert made.replication.difference is not None
    assert (made.replication.difference.low <= 0) == bool(ties)
    assert made.replication.finalists[1].difference == made.replication.difference
    assert made.sureness.ties == ties
    assert [one.tie for one in made.sureness.best] == [True, bool(ties)]


def test_an_accuracy_that_chance_explains_is_not_overtuned(plant: Plant) -> None:
    """12 of 12 validation images and 39 of 40 test images are right."""
    spec = spec_of(max_epochs=1)
    sample = {"optimizer": 1, "label_smoothing": 0.1}
    sure = sureness(gather(spec, plant(spec, [(sample, [1.0], [True] * 12)] * 2, 39 / 40, test_images=40)))
    assert sure.expected is not None
    assert (sure.expected.value, sure.expected.high, sure.overtuned) == (1, 1, False)
    assert sure.expected.low == pytest.approx(0.7575, abs=1e-4)


@pytest.mark.parametrize(
    ("gamma", "kind", "changes"), [(1e-10, "faded", []), (0.99, "improving", ["max_epochs 30 instead of 20"])]
)
def test_the_next_spec_has_no_more_epochs_where_the_schedule_ended_learning(
    plant: Plant, gamma: float, kind: str, changes: list[str]
) -> None:
    """The values rise as they may by noise."""
    curve = np.linspace(0.7, 0.9, 20).tolist()
    samples = [{"scheduler": number % 2, "label_smoothing": number / 100} for number in range(6)]
    trials = [(sample, [value - number / 1000 for value in curve], None) for number, sample in enumerate(samples)]
    steps = [{"kind": "exponential", "gamma": gamma}, {"kind": "step", "step_size": 1, "gamma": gamma}]
    space = {"scheduler": {"choice": steps}, "label_smoothing": {"uniform": [0, 0.2]}}
    spec = spec_of(search_space=space, max_epochs=20)
    made = make_insight(spec, plant(spec, trials))
    assert kind in [finding.kind for finding in made.curves[0].findings]
    assert made.counts[kind] == 6
    assert [one for one in made.next.changes if "max_epochs" in one] == changes
