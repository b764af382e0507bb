"""Domains down to one float wide: every searcher proposes values of them, and none divides by zero."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.searchers.base import Finding, SearchProblem, TrialResult

LEAST = 5e-324


def wide(keyword: str, low: float, floats: int) -> Any:
    """`make test` tries the narrowest one only."""
    high = low
    for _ in range(floats):
        high = math.nextafter(high, math.inf)
    return pytest.param({keyword: [low, high]}, marks=[pytest.mark.slow] if floats > 1 else [])


DOMAINS: list[Any] = [
    *(wide("uniform", low, floats) for low in (0.0, LEAST, 2.3e-308, 1e-5, 0.1) for floats in (1, 2, 3)),
    *(wide("loguniform", low, floats) for low in (LEAST, 2.3e-308, 1e-5, 0.1, 0.3) for floats in (1, 2, 3, 10)),
    {"uniform": [-0.0, LEAST]},
    {"uniform": [0.0, 1e-308]},
    {"loguniform": [LEAST, 0.5]},
    {"quniform": [0.0, LEAST, LEAST]},
    {"quniform": [0.0, 1e-308, 1e-308]},
]


@pytest.mark.parametrize("searcher", ["random", "tpe", "gp"])
@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_a_narrow_domain_ends_no_search(searcher: str, domain: dict[str, Any]) -> None:
    _search(searcher, {"label_smoothing": domain})


@pytest.mark.parametrize("searcher", ["random", "tpe", "gp", "grid"])
@pytest.mark.parametrize(
    "domain", [{"int_range": [7, 8]}, {"log_int_range": [7, 8]}, {"log_int_range": [1, 2]}], ids=str
)
def test_two_whole_numbers_end_no_search(searcher: str, domain: dict[str, Any]) -> None:
    _search(searcher, {"model": {"kind": "cnn", "width": domain}})


def _search(searcher: str, space: dict[str, Any]) -> None:
    spec = ExperimentSpec.model_validate({"name": "x", "searcher": searcher, "search_space": space})
    algorithm = spec.searcher.algorithm(
        SearchProblem(spec.search_space, 1, 0, spec.early_stopping.rungs(spec.max_epochs))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # as numpy divides by zero
        for number in range(16):
            sample = algorithm.propose(number)
            if sample is None:
                return
            spec.bind(sample, number)
            value = 1 / (2 + number)
            algorithm.report(number, 1, value)
            finding = Finding.COMPLETED if number % 5 else Finding.DIVERGED
            algorithm.observe(TrialResult(number, finding, (value,), value))
