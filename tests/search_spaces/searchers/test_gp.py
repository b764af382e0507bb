"""GP: the algebra against scikit-learn, and what the search promises: bounded work, all rungs used."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Kernel, Matern

from search_spaces.experiment import SearchSpace
from search_spaces.searchers.base import Finding, SearchProblem, TrialResult
from search_spaces.searchers.gp import GP, search
from search_spaces.searchers.gp.encoding import Encoding
from search_spaces.searchers.gp.process import JITTER, GaussianProcess, Hyperparameters, fit
from search_spaces.searchers.gp.search import FITTED, MODELED, PENDING, log_expected_improvement

SPACE = SearchSpace.model_validate(
    {
        "optimizer": {
            "choice": [
                {"kind": "adam", "lr": {"loguniform": [1e-4, 1e-2]}},
                {"kind": "sgd", "lr": {"loguniform": [1e-3, 1.0]}, "momentum": {"uniform": [0.0, 0.9]}},
            ]
        },
        "batch_size": {"choice": [32, 64, 128]},
        "label_smoothing": {"uniform": [0.0, 0.3]},
    }
)


def points(count: int) -> tuple[Any, Any, Any]:
    """Random points of three columns, with levels, and values that depend on the first column most."""
    generator = np.random.default_rng(0)
    given, levels = generator.random((count, 3)), generator.integers(0, 3, count) / 2
    values = np.sin(6 * given[:, 0]) + 0.2 * given[:, 1] + 0.3 * levels + 0.05 * generator.normal(size=count)
    return given, levels, (values - values.mean()) / values.std()


def peer(found: Hyperparameters, given: Any, levels: Any, values: Any) -> GaussianProcessRegressor:
    """The same process by scikit-learn, which has no kernels of single columns: the others get an endless scale."""
    endless = 1e9
    kernel: Kernel = (
        ConstantKernel(found.variance)
        * Matern([*found.scales, endless], nu=2.5)
        * RBF([*[endless] * len(found.scales), found.level_scale])
    )
    process = GaussianProcessRegressor(kernel, alpha=found.noise + JITTER, optimizer=None)
    return process.fit(np.column_stack([given, levels]), values)


def test_the_posterior_is_that_of_scikit_learn() -> None:
    given, levels, values = points(40)
    hyperparameters = Hyperparameters(np.array([0.3, 0.8, 1.5]), 0.6, 1.3, 0.02)
    process = GaussianProcess(given, levels, values, hyperparameters)
    where = np.random.default_rng(1).random((25, 3))
    means, deviations = process.predict(where, 1.0)
    expected = peer(hyperparameters, given, levels, values).predict(
        np.column_stack([where, np.ones(25)]), return_std=True
    )
    np.testing.assert_allclose(means, expected[0], atol=1e-6)
    np.testing.assert_allclose(deviations, expected[1], atol=1e-5)
    believing = process.believing(where[:3], 1.0)
    np.testing.assert_allclose(believing.predict(where[:3], 1.0)[0], means[:3], atol=1e-6)
    assert (believing.predict(where[:3], 1.0)[1] < deviations[:3]).all()


def test_the_fit_is_a_maximum_of_the_posterior_density_and_finds_what_matters() -> None:
    """Close to it in every direction, the density that scikit-learn computes, with the prior, is smaller."""
    given, levels, values = points(60)
    found = fit(given, levels, values, np.arange(3))
    assert found.scales[0] < found.scales[1] < found.scales[2]

    def log_density(changed: Hyperparameters) -> float:
        priors = [(changed.level_scale, 0.7, 0.7), (changed.variance, 1.0, 1.0), (changed.noise, 0.01, 1.5)]
        priors += [(scale, math.sqrt(3) / 3, 1.0) for scale in changed.scales]
        prior = sum(-0.5 * (math.log(value / mean) / deviation) ** 2 for value, mean, deviation in priors)
        return float(peer(changed, given, levels, values).log_marginal_likelihood()) + prior

    best = log_density(found)
    for step in (0.8, 1.25):
        for column in range(3):
            scales = found.scales.copy()
            scales[column] *= step
            assert log_density(Hyperparameters(scales, found.level_scale, found.variance, found.noise)) < best
        level, variance, noise = found.level_scale, found.variance, found.noise
        assert log_density(Hyperparameters(found.scales, level * step, variance, noise)) < best
        assert log_density(Hyperparameters(found.scales, level, variance * step, noise)) < best
        assert log_density(Hyperparameters(found.scales, level, variance, noise * step)) < best


def test_domains_of_several_columns_have_one_scale() -> None:
    given, levels, values = points(30)
    found = fit(given, levels, values, np.array([0, 1, 1]))
    assert found.scales[1] == found.scales[2] != found.scales[0]


@pytest.mark.parametrize("mean", [-2.0, 0.0, 1.0])
def test_expected_improvement_is_that_of_samples(mean: float) -> None:
    drawn = np.random.default_rng(0).normal(mean, 0.7, 2_000_000)
    expected = np.maximum(drawn - 0.3, 0).mean()
    found = np.exp(log_expected_improvement(np.array([mean]), np.array([0.7]), 0.3))[0]
    assert found == pytest.approx(expected, rel=0.05)


def test_expected_improvement_tells_hopeless_candidates_apart() -> None:
    scores = log_expected_improvement(-np.arange(0.0, 60.0, 0.25), np.ones(240), 0.0)
    assert np.isfinite(scores).all()
    assert (np.diff(scores) < 0).all()


def test_what_does_not_apply_makes_no_difference() -> None:
    encoding = Encoding(SPACE)
    adam = {"optimizer": 0, "optimizer[0].lr": 1e-3, "batch_size": 1, "label_smoothing": 0.3}
    sgd = {"optimizer": 1, "optimizer[1].lr": 1.0, "optimizer[1].momentum": 0.9, "batch_size": 1, "label_smoothing": 0}
    columns = dict(zip(("adam", "sgd", "adam.lr", "sgd.lr", "momentum"), encoding.encode(adam), strict=False))
    assert columns == pytest.approx({"adam": 0.5**0.5, "sgd": 0, "adam.lr": 0.5, "sgd.lr": 0.5, "momentum": 0.5})
    columns = dict(zip(columns, encoding.encode(sgd), strict=False))
    assert columns == pytest.approx({"adam": 0, "sgd": 0.5**0.5, "adam.lr": 0.5, "sgd.lr": 1, "momentum": 1})
    assert encoding.encode(adam)[-1] == 1
    other = encoding.encode({"optimizer": 7, "label_smoothing": 99.0, "optimizer[1].lr": -1.0})  # of another space
    assert np.isfinite(other).all()


def drawn_near(
    encoding: Encoding, center: dict[str, float], count: int, share: float, generator: np.random.Generator
) -> list[dict[str, float]]:
    rows = encoding.near(np.tile(encoding.row(center), (count, 1)), 0.05, share, generator)
    return [encoding.sample(row) for row in rows]


def test_numbers_of_a_choice_are_near_their_neighbors() -> None:
    numbers = {"label_smoothing": {"choice": [0.2, 0.0, 0.3, 0.1]}}
    ordered = Encoding(SearchSpace.model_validate(numbers))
    assert [ordered.encode({"label_smoothing": index})[0] for index in range(4)] == pytest.approx([2 / 3, 0, 1, 1 / 3])
    generator = np.random.default_rng(0)
    for index, neighbors in ((1, {3}), (3, {1, 0}), (0, {3, 2}), (2, {0})):
        near = {
            sample["label_smoothing"] for sample in drawn_near(ordered, {"label_smoothing": index}, 99, 1.0, generator)
        }
        assert near == {index} | neighbors
    unordered = Encoding(SearchSpace.model_validate(numbers), ordered=False)
    vectors = [unordered.encode({"label_smoothing": index}) for index in range(4)]
    assert {round(float(np.linalg.norm(one - other)), 9) for one in vectors for other in vectors} == {0, 1}


def test_samples_near_another_stay_near_and_inside() -> None:
    encoding, generator = Encoding(SPACE), np.random.default_rng(0)
    center = {"optimizer": 0, "optimizer[0].lr": 1e-4, "batch_size": 2, "label_smoothing": 0.3}
    near = drawn_near(encoding, center, 300, 1.0, generator)
    same = [sample for sample in near if sample["optimizer"] == 0]
    assert 200 < len(same) < 300, "the choice is drawn again now and then"
    assert all(1e-4 <= sample["optimizer[0].lr"] < 5e-4 for sample in same)
    assert all(0.2 < sample["label_smoothing"] <= 0.3 for sample in near)
    imported = {"optimizer": 5, "batch_size": 2, "label_smoothing": 7.0}  # of a larger space
    near = drawn_near(encoding, imported, 50, 0.5, generator)
    assert all(0 <= sample["label_smoothing"] <= 0.3 for sample in near)
    assert {sample["optimizer"] for sample in near} == {0, 1}


def trained(algorithm: Any, number: int, value: float, epochs: tuple[int, ...] = (1, 3)) -> None:
    for epoch in epochs:
        algorithm.report(number, epoch, value)


def test_work_is_bounded_however_many_trials_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[int] = []
    modeled: list[int] = []

    class Counted(GaussianProcess):
        def __init__(self, given: Any, levels: Any, values: Any, hyperparameters: Any) -> None:
            modeled.append(len(values))
            super().__init__(given, levels, values, hyperparameters)

    def counted(given: Any, levels: Any, values: Any, groups: Any) -> Any:
        fitted.append(len(values))
        return fit(given, levels, values, groups)

    monkeypatch.setattr(search, "GaussianProcess", Counted)
    monkeypatch.setattr(search, "fit", counted)
    algorithm = GP().algorithm(SearchProblem(SPACE, 1, 0, rungs=(1, 3, 9)))
    generator, encoding = np.random.default_rng(0), Encoding(SPACE)
    for number in range(2_000):
        algorithm.replay(number, encoding.draw(generator))
        if number < 1_500:
            trained(algorithm, number, float(generator.random()), (1, 3)[: 1 + (number % 3 == 0)])
    assert algorithm.propose(2_000) is not None
    assert (fitted, modeled) == ([FITTED], [MODELED, MODELED + PENDING])


@pytest.mark.parametrize("startup_trials", [1, 10])
@pytest.mark.parametrize(
    ("space", "count"),
    [
        ({"batch_size": {"choice": [16, 32, 64, 128, 256, 512]}, "label_smoothing": {"choice": [0.0, 0.1]}}, 12),
        ({"label_smoothing": {"quniform": [0.0, 0.9, 0.1]}}, 10),
        ({"model": {"kind": "cnn", "width": {"log_int_range": [8, 19]}}}, 12),
    ],
)
def test_no_configuration_is_tried_twice_while_others_are_left(
    space: dict[str, Any], count: int, startup_trials: int
) -> None:
    problem = SearchProblem(SearchSpace.model_validate(space), 1, 0, rungs=(1, 3))
    algorithm = GP(startup_trials=startup_trials).algorithm(problem)
    drawn = set()
    for number in range(count):
        sample = algorithm.propose(number)
        assert sample is not None
        drawn.add(json.dumps(sample, sort_keys=True))
        trained(algorithm, number, sum(sample.values()) / 100)
    assert len(drawn) == count
    assert algorithm.propose(count) is None


def test_samples_of_other_searchers_count_as_tried() -> None:
    """Optuna's samples of a continuation are free of binary noise, and so are these."""
    space = SearchSpace.model_validate({"label_smoothing": {"quniform": [0.0, 0.9, 0.1]}})
    algorithm = GP(startup_trials=1).algorithm(SearchProblem(space, 1, 0, rungs=(1, 3)))
    for number in range(9):
        algorithm.replay(number, {"label_smoothing": number / 10})
        trained(algorithm, number, 1 - number / 10)
    assert algorithm.propose(9) == {"label_smoothing": 0.9}


def test_a_search_comes_close_to_an_optimum_without_repeating_it() -> None:
    space = SearchSpace.model_validate({"optimizer": {"kind": "adam", "lr": {"loguniform": [1e-5, 1e-1]}}})
    algorithm = GP().algorithm(SearchProblem(space, 1, 0, rungs=(1, 3)))
    logs = []
    for number in range(40):
        sample = algorithm.propose(number)
        assert sample is not None
        logs.append(math.log10(sample["optimizer.lr"]))
        trained(algorithm, number, -((logs[-1] + 3) ** 2))
    assert min(abs(log + 3) for log in logs) < 0.05
    assert np.diff(np.sort(logs)).min() > 1e-9


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ({"model": {"kind": "cnn", "depth": {"int_range": [1, 3]}}}, [1, 1, 1]),
        ({"label_smoothing": {"quniform": [0.1, 0.3, 0.1]}}, [1, 1, 1]),
        ({"label_smoothing": {"choice": [0.1, 0.2, 0.3]}}, [1, 1, 1]),
        (
            {"model": {"kind": "cnn", "width": {"log_int_range": [1, 3]}}},
            [math.log(7 / 5), math.log(5 / 3), math.log(3)],
        ),
    ],
)
def test_candidates_have_their_share(space: dict[str, Any], expected: list[float]) -> None:
    encoding, generator = Encoding(SearchSpace.model_validate(space)), np.random.default_rng(0)
    drawn = [next(iter(encoding.draw(generator).values())) for _ in range(3_000)]
    shares = sorted(drawn.count(value) / 3_000 for value in set(drawn))
    assert shares == pytest.approx([share / sum(expected) for share in expected], abs=0.03)


def test_the_widest_logarithmic_domain_is_drawn_from() -> None:
    encoding = Encoding(
        SearchSpace.model_validate({"optimizer": {"kind": "adam", "lr": {"loguniform": [1e-300, 1.0]}}})
    )
    logs = [math.log10(encoding.draw(np.random.default_rng(seed))["optimizer.lr"]) for seed in range(50)]
    assert min(logs) < -250
    assert max(logs) > -50


def test_later_rungs_correct_the_first_one() -> None:
    """At the first rung small values look best, at the second large ones do; few trials reach it."""
    space = SearchSpace.model_validate({"label_smoothing": {"uniform": [0.0, 0.9]}})
    algorithm = GP(startup_trials=5).algorithm(SearchProblem(space, 1, 0, rungs=(1, 3)))
    drawn = []
    for number in range(40):
        sample = algorithm.propose(number)
        assert sample is not None
        drawn.append(sample["label_smoothing"])
        algorithm.report(number, 1, 1 - drawn[-1] / 2)
        if number % 3 == 0:
            algorithm.report(number, 3, drawn[-1])
            algorithm.observe(TrialResult(number, Finding.COMPLETED, (), drawn[-1]))
    assert sum(drawn[-10:]) / 10 > 0.65


@pytest.mark.parametrize("values", [(0.5,) * 30, (1e300, -1e300) * 15, (0.0, 1e-300) * 15])
def test_strange_values_are_survived(values: tuple[float, ...]) -> None:
    algorithm = GP(startup_trials=2).algorithm(SearchProblem(SPACE, 1, 0, rungs=(1, 3)))
    for number, value in enumerate(values):
        assert algorithm.propose(number) is not None
        trained(algorithm, number, value)
        algorithm.observe(TrialResult(number, Finding.COMPLETED, (value,), value))


def test_a_space_without_domains_can_be_searched() -> None:
    algorithm = GP(startup_trials=1).algorithm(SearchProblem(SearchSpace(), 1, 0))
    for number in range(4):
        assert algorithm.propose(number) == {}
        algorithm.observe(TrialResult(number, Finding.COMPLETED, (0.5,), 0.5))
