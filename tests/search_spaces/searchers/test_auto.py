"""Which searcher the default is, by the form of the search space."""

from __future__ import annotations

from typing import Any

import pytest

from search_spaces.experiment import SearchSpace
from search_spaces.searchers.auto import Auto
from search_spaces.searchers.base import Finding, SearchAlgorithm, SearchProblem, TrialResult
from search_spaces.searchers.drawn import DrawnSearcherSpec
from search_spaces.searchers.gp import GP
from search_spaces.searchers.tpe import TPE

FLAT: dict[str, Any] = {"batch_size": {"choice": [16, 32, 64]}, "label_smoothing": {"uniform": [0.0, 0.9]}}
DEPENDENT: dict[str, Any] = {
    "optimizer": {"choice": [{"kind": "sgd", "lr": {"loguniform": [0.01, 1.0]}}, {"kind": "adam", "lr": 0.001}]}
}
#: Alternatives without domains of their own.
KINDS = {"optimizer": {"choice": [{"kind": "sgd", "lr": 0.1}, {"kind": "adam", "lr": 0.001}]}} | FLAT


def proposed(searcher: DrawnSearcherSpec, space: dict[str, Any]) -> list[dict[str, float] | None]:
    algorithm: SearchAlgorithm = searcher.algorithm(SearchProblem(SearchSpace.model_validate(space), 1, 0, (1,)))
    found = []
    for number in range(8):
        found.append(algorithm.propose(number))
        algorithm.report(number, 1, number / 8)
        algorithm.observe(TrialResult(number, Finding.EARLY_STOPPED, (number / 8,), number / 8))
    return found


@pytest.mark.parametrize(("space", "kind"), [(FLAT, GP), (KINDS, GP), (DEPENDENT, TPE)])
def test_it_is_tpe_where_a_domain_depends_on_a_choice_and_otherwise_gp(
    space: dict[str, Any], kind: type[TPE | GP]
) -> None:
    fields: dict[str, Any] = {"startup_trials": 3, "initial": ("default",)}
    assert proposed(Auto(**fields), space) == proposed(kind(**fields), space)
    other = TPE if kind is GP else GP
    assert proposed(Auto(**fields), space) != proposed(other(**fields), space)
