"""What `make bench-search` says of the targets of the default."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.search_quality.targets import lines

DEVELOPMENT = ("a", "b")


def table(**changes: Any) -> dict[str, Any]:
    return {
        "mean_regret": {"default": {10.0: 0.25, 20.0: 0.2}, "optuna": {10.0: 0.3, 20.0: 0.25}},
        "mean_rank": {"default": {10.0: 1.6, 20.0: 1.25}, "optuna": {10.0: 1.4, 20.0: 1.75}},
        "needed": {"default": 9.5, "optuna": 20.0},
    } | changes


def said(result: dict[str, Any], tasks: tuple[str, ...] = DEVELOPMENT) -> list[str]:
    return list(lines(result, tasks, DEVELOPMENT, "optuna", 20.0))


def test_each_target_is_reached_or_missed_by_so_much() -> None:
    assert said(table()) == [
        "missed by 0.045: regret of at most 0.155 at 20: 0.2",
        "missed by 0.2: first in mean rank at 10 (optuna is next): 1.6",
        "reached: first in mean rank at 20 (optuna is next): 1.25",
        "reached: trainings to the regret of optuna at 20, at most 10: 9.5",
    ]


def test_a_target_that_the_table_cannot_tell_is_left_out() -> None:
    assert said(table(), ("a", "digits-cnn"))[0].startswith("missed by 0.2: first in mean rank"), "another scale"
    assert said(table(needed={"default": None, "optuna": 20.0}))[-1].endswith("at most 10: never reached")
    mobster = {"default": {10.0: 0.25}, "syne-mobster": {10.0: 0.2}}
    ranks = {"default": {10.0: 2.0}, "syne-mobster": {10.0: 1.0}}
    assert (
        said(table(mean_regret=mobster, mean_rank=ranks))[-1] == "missed by 0.05: not behind syne-mobster at 10: 0.25"
    )
    assert said({"mean_regret": {"tpe": {10.0: 0.1}}, "mean_rank": {"tpe": {10.0: 1.0}}, "needed": {}}) == []
