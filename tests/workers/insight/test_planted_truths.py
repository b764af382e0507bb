"""What Rung concludes of a search, on planted truths: searches and outcomes whose true answer is known."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from tests.support.planted import PLANTED, additive_search, outcomes
from workers.insight.importance import forest_shares, shares
from workers.insight.intervals import Estimate, is_lower, of_accuracy
from workers.insight.replication import estimates
from workers.insight.replication import expected_of_choice as expected_of_finalist
from workers.insight.selection import expected_of_choice
from workers.insight.ties import worse_than


def wald(accuracy: float, images: int) -> Estimate:
    half = 1.96 * np.sqrt(accuracy * (1 - accuracy) / images)
    return Estimate(accuracy, accuracy - half, accuracy + half)


def coverage(interval: Callable[[float, int], Estimate], images: int) -> float:
    """The exact probability that an interval holds the true accuracy, over accuracies from 0.93 to 0.995."""
    found = [interval(right / images, images) for right in range(images + 1)]
    low, high = np.array([one.low for one in found]), np.array([one.high for one in found])
    truths = np.linspace(0.93, 0.995, 27)
    chances = [stats.binom.pmf(np.arange(images + 1), images, p) @ ((low <= p) & (p <= high)) for p in truths]
    return float(np.mean(chances))


SLOW = pytest.mark.slow


@pytest.mark.parametrize("images", [216, 360, pytest.param(1000, marks=SLOW)])
def test_the_interval_of_an_accuracy_holds_the_truth_in_95_of_100_cases(images: int) -> None:
    assert 0.93 < coverage(of_accuracy, images) < 0.98


def test_walds_interval_would_not_hold_it_on_few_images() -> None:
    assert coverage(wald, 216) < 0.91


def test_the_interval_of_all_right_reaches_one() -> None:
    found = of_accuracy(1.0, 216)
    assert found.high == 1
    assert found.low == pytest.approx(0.9825, abs=1e-4)


@pytest.mark.parametrize(("images", "gap", "excluded"), [(216, 0.04, 0.7), (6000, 0.01, 0.95)])
def test_equal_trials_stay_and_worse_ones_are_found(images: int, gap: float, excluded: float) -> None:
    random = np.random.default_rng(1)
    dropped, found = [], []
    for _ in range(100 if images < 1000 else 20):
        right = outcomes([0.985] * 10 + [0.985 - gap] * 10, images, random)
        worse = worse_than(right, int(right.mean(1).argmax()))
        dropped.append(worse[:10].mean())
        found.append(worse[10:].mean())
    assert np.mean(dropped) <= 0.05
    assert np.mean(found) >= excluded


def test_trials_are_compared_image_by_image() -> None:
    """Both others have 24 of 40 images right; one is right only where the winner is right as well."""
    winner = np.arange(40) < 30
    on_the_same, on_others = np.arange(40) < 24, (np.arange(40) >= 10) & (np.arange(40) < 34)
    assert worse_than(np.array([winner, on_the_same, on_others]), 0).tolist() == [False, True, False]


def test_the_correction_is_holms() -> None:
    """Chances of 1/32: below 5 % of one comparison, but not below 2.5 % of the first of two."""
    winner = np.arange(20) < 15
    other = winner & (np.arange(20) >= 5)
    assert worse_than(np.array([winner, other]), 0).tolist() == [False, True]
    assert worse_than(np.array([winner, other, other]), 0).tolist() == [False, False, False]


def test_the_only_trial_is_not_compared() -> None:
    assert worse_than(np.array([[True, False]]), 0).tolist() == [False]


@pytest.mark.parametrize("spread", [0.0, 0.02], ids=["equal trials", "trials of 96.5 to 98.5 %"])
def test_the_expected_accuracy_of_the_best_of_40_is_not_biased(spread: float) -> None:
    random = np.random.default_rng(2)
    naive, corrected, held = [], [], []
    for seed in range(80):
        truth = random.uniform(0.985 - spread, 0.985, 40)
        right = outcomes(truth, 216, random)
        best = int(right.mean(1).argmax())
        expected = expected_of_choice(right, seed)
        naive.append(right.mean(1)[best] - truth[best])
        corrected.append(expected.value - truth[best])
        held.append(expected.low <= truth[best] <= expected.high)
    assert np.mean(naive) > 0.007  # which the correction removes
    assert abs(np.mean(corrected)) < 0.003
    assert np.mean(held) > 0.95


def test_the_expected_accuracy_of_one_trial_is_its_accuracy() -> None:
    right = np.arange(1000)[None] < 900
    found = expected_of_choice(right)
    assert found.value == pytest.approx(0.9, abs=0.002)
    assert found.low < 0.9 < found.high


@pytest.mark.parametrize(("lower_by", "least", "most"), [(0.0, 0.0, 0.05), (0.04, 0.8, 1.0)])
def test_a_test_result_is_called_overtuned_only_where_it_is_lower(lower_by: float, least: float, most: float) -> None:
    random = np.random.default_rng(3)
    called = []
    for seed in range(25):
        truth = random.uniform(0.94, 0.96, 20)
        right = outcomes(truth, 2000, random)
        true_test = truth[int(right.mean(1).argmax())] - lower_by
        test = random.binomial(2000, true_test) / 2000
        called.append(is_lower(test, 2000, expected_of_choice(right, seed).value, 2000))
    assert least <= np.mean(called) <= most


def not_overtuned(expected: float, images: int, test_images: int) -> int:
    """The fewest right test images that are not called overtuned."""
    return bisect_left(
        range(test_images + 1),
        True,
        key=lambda right: not is_lower(right / test_images, test_images, expected, images),
    )


@pytest.mark.parametrize("truth", [0.975, 0.99])
@pytest.mark.parametrize(
    ("images", "test_images"),
    [(12, 40), (12, 4000), (100, 1000), pytest.param(300, 4000, marks=SLOW), pytest.param(1000, 1000, marks=SLOW)],
)
@pytest.mark.parametrize("trials", [1, 5, 20])
def test_a_test_result_of_the_same_accuracy_is_seldom_called_overtuned(
    truth: float, images: int, test_images: int, trials: int
) -> None:
    random = np.random.default_rng(10)
    called = []
    for seed in range(60):
        expected = expected_of_choice(outcomes([truth] * trials, images, random), seed)
        assert expected.low <= expected.value <= expected.high
        fewest = not_overtuned(expected.value, images, test_images)
        called.append(stats.binom.cdf(fewest - 1, test_images, truth))
    assert np.mean(called) <= 0.05


def test_the_expected_accuracy_of_all_right_is_no_surer_than_so_few_images_allow() -> None:
    found, least = expected_of_choice(np.ones((5, 12), bool)), of_accuracy(1.0, 12)
    assert (found.value, found.low, found.high) == (1.0, least.low, 1.0)


def replicated(
    gap: float, random: np.random.Generator, images: int = 1000, seeds: int = 2
) -> tuple[list[NDArray[np.bool_]], list[float]]:
    """Three configurations, the first better by `gap` than the others; the sd of seeds is half a percentage point."""
    true = [0.95, 0.95 - gap, 0.95 - gap]
    runs = [accuracy + 0.005 * random.normal(size=seeds) for accuracy in true]
    right = outcomes([float(one) for each in runs for one in each], images, random)
    return [right[place * seeds : (place + 1) * seeds] for place in range(3)], true


@pytest.mark.parametrize("gap", [pytest.param(0.0, marks=SLOW), 0.01])
def test_the_intervals_of_the_finalists_contain_the_truth(gap: float) -> None:
    random = np.random.default_rng(8)
    inside, differences = [], []
    for seed in range(100):
        right, true = replicated(gap, random)
        found, (difference, *_) = estimates(right, seed)
        inside += [one.low <= truth <= one.high for one, truth in zip(found, true, strict=True)]
        differences.append(difference.low <= gap <= difference.high)
    assert 0.90 <= np.mean(inside) <= 0.98
    assert np.mean(differences) >= 0.90


@pytest.mark.parametrize("gap", [0.0, 0.01])
def test_what_is_expected_of_the_choice_is_not_too_good_and_the_best_of_the_search_is(gap: float) -> None:
    random = np.random.default_rng(9)
    expected, naive = [], []
    for _ in range(400):
        true = np.array([0.95, 0.95 - gap, 0.95 - gap])
        values = true[:, None] + 0.005 * random.normal(size=(3, 2))
        chosen = true[[int(np.delete(values, left, 1).mean(1).argmax()) for left in range(2)]].mean()
        expected.append(expected_of_finalist(values.tolist(), 1) - chosen)
        first = true.repeat(10) + 0.005 * random.normal(size=30)  # one seed of each of 30 trials, as a search has it
        naive.append(first.max() - true.repeat(10)[first.argmax()])
    assert abs(np.mean(expected)) < 0.001
    assert np.mean(naive) > 0.003


def importance_is_right(searcher: str, seeds: int) -> None:
    first, ranks, dead = [], [], []
    truth = list(PLANTED.values())
    for seed in range(seeds):
        positions, curves = additive_search(searcher, seed)
        found = shares(positions, [curve[0] for curve in curves.values()], seed)
        medians = [bar.share for bar in found.bars]
        first.append(np.argmax(medians) == 0 and not found.is_noise(0))
        ranks.append(stats.spearmanr(medians, truth).statistic)
        dead += [found.is_noise(index) for index, share in enumerate(truth) if share == 0]
    assert np.mean(first) >= 0.95
    assert np.mean(ranks) >= 0.7
    assert dead.count(False) <= max(1, 0.1 * len(dead))  # of a few, one may be wrong


def test_importance_finds_the_planted_shares_in_a_random_search() -> None:
    importance_is_right("random", 2)


@pytest.mark.slow
@pytest.mark.parametrize("searcher", ["random", "tpe"])
def test_importance_finds_the_planted_shares_in_many_searches(searcher: str) -> None:
    importance_is_right(searcher, 8)


def test_importance_finds_the_planted_shares_where_tpe_chose_the_trials() -> None:
    importance_is_right("tpe", 2)


def test_hyperparameters_that_do_nothing_are_noise() -> None:
    random = np.random.default_rng(4)
    noise = [
        found.is_noise(index)
        for seed in range(2)
        for found in [shares(random.random((60, 6)), random.normal(size=60), seed)]
        for index in range(6)
    ]
    assert np.mean(noise) >= 0.9


def test_the_shares_of_a_forest_are_those_that_optuna_finds() -> None:
    import optuna
    from sklearn.ensemble import RandomForestRegressor

    random = np.random.default_rng(5)
    positions: NDArray[np.float64] = random.random((60, 4))
    values = 3 * positions[:, 0] + positions[:, 1] ** 2 + 0.1 * random.normal(size=60)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    domains = {f"x{index}": optuna.distributions.FloatDistribution(0, 1) for index in range(4)}
    study = optuna.create_study()
    for row, value in zip(positions, values, strict=True):
        parameters = {f"x{index}": float(place) for index, place in enumerate(row)}
        study.add_trial(optuna.trial.create_trial(params=parameters, distributions=domains, value=float(value)))
    theirs = optuna.importance.FanovaImportanceEvaluator(n_trees=8, seed=6).evaluate(study)
    forest = RandomForestRegressor(8, max_depth=64, random_state=6).fit(positions, values)
    ours = forest_shares([tree.tree_ for tree in forest.estimators_], 4)
    assert ours == pytest.approx([theirs[name] for name in domains])


def test_importance_of_few_trials_is_refused() -> None:
    with pytest.raises(ValueError, match="must have at least 30 trials"):
        shares(np.random.default_rng(7).random((29, 2)), range(29))


def test_importance_of_equal_values_is_refused() -> None:
    with pytest.raises(ValueError, match="whose values differ"):
        shares(np.random.default_rng(8).random((40, 2)), [0.5] * 40)
