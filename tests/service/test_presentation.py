"""What is shown of experiments and trials, as text without a terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from search_spaces.protocol import Packing, Speed, TrialState
from search_spaces.sampling import NOT_APPLICABLE
from search_spaces.searched import searched_parameters, short_name
from service.contract.schemas import Curves, DiskUse, ExperimentSummary, ExperimentView, Point, TrialView, Used
from service.presentation.data_sets import classes, data, disk_use
from service.presentation.experiments import facts, listing, packing
from service.presentation.text import figure
from service.presentation.trials import curves, differing_parameters, leaderboard
from tests.support.data_reports import data_report

USED = Used(slot_hours=7.5, gpu_hours=15, cpu_hours=22.5)
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def trial(number: int, state: TrialState, reason: str = "", **fields: Any) -> TrialView:
    given: dict[str, Any] = {"epoch": 3, "best_value": 0.91, "best_epoch": 2, "metrics": {}, "parameters": {}}
    empty = dict.fromkeys(("mlflow_run_id", "mlflow_url", "started_at", "ended_at"))
    return TrialView(trial=number, state=state, stop_reason=reason, **given | empty | fields)


def test_white_space_at_the_ends_of_a_class_name_is_seen() -> None:
    report = data_report(classes=["owl ", "wren"])
    assert [row[0] for row in classes(report).rows] == ["'owl '", "wren", "2 classes"]
    assert [fact.text for fact in data(report) if fact.label == "classes"] == ["2: 'owl ', wren"]


def test_what_was_measured_of_trials_that_share_a_gpu() -> None:
    speeds = [Speed(trials=count, images_per_second=speed) for count, speed in ((1, 912.34), (2, None), (4, 2900.0))]
    four = Packing(trials=4, peak_bytes=5_100_000_000, total_bytes=24 * 10**9, speeds=speeds)
    assert [(fact.label, fact.text) for fact in packing(four)] == [
        ("packing", "4 trials share a GPU"),
        ("memory", "5.1 GB of 24 GB of a GPU, for a trial of the largest configuration"),
        ("speed", "images per second together: 1 at once 912, 4 at once 2900"),
    ]
    none = Packing(trials=1, note="how many trials share a GPU could not be measured: CUDA out of memory")
    assert [fact.text for fact in packing(none)] == ["each trial has a GPU for itself", none.note]


def test_a_parameter_that_its_kind_implies_has_no_column() -> None:
    adam = {"optimizer.kind": "adam", "optimizer.beta1": 0.9, "optimizer.momentum": NOT_APPLICABLE, "warmup.epochs": 2}
    sgd = {"optimizer.kind": "sgd", "optimizer.beta1": NOT_APPLICABLE, "warmup.epochs": NOT_APPLICABLE}
    parameters = (adam, sgd | {"optimizer.momentum": 0.9}, sgd | {"optimizer.momentum": 0.5})
    trials = [trial(number, TrialState.RUNNING, "", parameters=one) for number, one in enumerate(parameters)]
    assert differing_parameters(trials) == ["optimizer.kind", "optimizer.momentum", "warmup.epochs"]
    assert differing_parameters(trials[:2]) == ["optimizer.kind", "warmup.epochs"]


def test_a_leaderboard_has_every_differing_parameter_and_the_reasons() -> None:
    trials = [
        trial(
            1, TrialState.EARLY_STOPPED, "rung: validation_accuracy 0.9 is\nlow", parameters={"optimizer.lr": 0.123456}
        ),
        trial(0, TrialState.RUNNING, best_value=None, best_epoch=None, parameters={"optimizer.lr": 1.0}),
    ]
    board = leaderboard(trials, "validation_accuracy")
    assert board.trials.headings == ("trial", "state", "epoch", "accuracy", "at")
    assert board.trials.rows == (("1", "EARLY_STOPPED", "3", "0.91", "2"), ("0", "RUNNING", "3", "-", "-"))
    assert (board.parameters.headings, board.parameters.rows) == (("lr",), (("0.1235",), ("1",)))
    assert board.reasons == ("rung: 0.9 is low", "")


def test_a_leaderboard_has_the_searched_parameters_before_others() -> None:
    space = {
        "optimizer": {
            "choice": [
                {"kind": "sgd", "lr": {"loguniform": [0.01, 1.0]}, "momentum": 0.9},
                {"kind": "rmsprop", "lr": 0.01, "momentum": 0.0, "eps": 1e-8},
                {"kind": "rmsprop", "lr": 0.01, "momentum": 0.0, "eps": 1e-6},
            ]
        },
        "model": {"kind": "plugin", "arguments": {"depth": {"int_range": [1, 3]}, "heads": 4}},
        "batch_size": {"choice": [32, 64]},
        "label_smoothing": 0.1,
    }
    searched = searched_parameters(space)
    assert searched == {"optimizer.kind", "optimizer.lr", "optimizer.eps", "model.arguments.depth", "batch_size"}
    sgd = {"optimizer.kind": "sgd", "optimizer.lr": 0.1, "optimizer.momentum": 0.9, "optimizer.eps": NOT_APPLICABLE}
    rms = {"optimizer.kind": "rmsprop", "optimizer.lr": 0.01, "optimizer.momentum": 0.0, "optimizer.eps": 1e-6}
    trials = [
        trial(number, TrialState.RUNNING, parameters={**one, "batch_size": 64}) for number, one in enumerate((sgd, rms))
    ]
    board = leaderboard(trials, "validation_accuracy", searched)
    assert board.parameters.headings == ("optimizer", "lr", "batch_size", "eps")
    assert board.parameters.rows == (("sgd", "0.1", "64", "-"), ("rmsprop", "0.01", "64", "1e-06"))


def test_curves_have_a_row_for_each_epoch() -> None:
    now = datetime.now(UTC)

    def points(*values: float | None) -> list[Point]:
        return [Point(step=step, value=value, timestamp=now) for step, value in enumerate(values, 1)]

    table = curves(Curves(trial=0, mlflow_run_id="r", metrics={"loss": points(0.5, None), "accuracy": points(0.25)}))
    assert table.headings == ("epoch", "loss", "accuracy")
    assert table.rows == (("1", "0.5", "0.25"), ("2", "-", "-"))


def test_disk_use_begins_with_the_largest_kind() -> None:
    use = DiskUse(folder="/x", total_bytes=1_234_567, bytes_by_kind={"pictures": 567, "model": 1_234_000, "journal": 0})
    assert disk_use(use).text == "1.23 MB (model 1.23 MB, plots 567 B)"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (NOT_APPLICABLE, "-"), (0.123456, "0.1235"), (64, "64"), ("adam", "adam")]
)
def test_values_are_shown_with_four_digits(value: object, text: str) -> None:
    assert figure(value) == text


def test_a_short_name_stays_unique() -> None:
    names = ["optimizer.kind", "optimizer.lr", "warmup.epochs", "cooldown.epochs"]
    assert [short_name(name, names) for name in names] == ["optimizer", "lr", "warmup.epochs", "cooldown.epochs"]


def summary(**fields: Any) -> ExperimentSummary:
    """An experiment that waits."""
    empty = dict.fromkeys(
        (
            "started_at",
            "ended_at",
            "archived_at",
            "source_id",
            "best",
            "mlflow_experiment_id",
            "mlflow_run_id",
            "mlflow_url",
        )
    )
    base: dict[str, Any] = {
        "id": "x", "name": "n", "project": "p", "state": "QUEUED", "phase": "", "reason": "", "created_at": NOW,
        "revision": 1, "metric": "validation_accuracy", "mode": "max", "num_samples": 1, "trials": {}, "slots": 0,
        "attempt": 0,
    }  # fmt: skip
    return ExperimentSummary(**base | empty | fields)


def test_priorities_teams_and_owners_are_shown_where_they_say_something() -> None:
    def listed(*belongings: tuple[str, str | None, int]) -> tuple[str, ...]:
        items = [summary(team=team, owner=owner, priority=priority) for team, owner, priority in belongings]
        table = listing(items)
        assert all(len(row) == len(table.headings) for row in table.rows)
        return table.headings[10:]

    assert listed() == listed(("default", None, 0), ("default", None, 0)) == ()
    assert listed(("vision", "alice", 0), ("vision", None, 0)) == ("owner",)
    assert listed(("vision", None, 0), ("nlp", None, 0)) == ("team",)
    assert listed(("vision", "alice", 0), ("nlp", "bob", -3)) == ("priority", "team", "owner")


def test_a_list_shows_slots_and_how_long_each_has_taken() -> None:
    started = NOW - timedelta(hours=3)
    items = [
        summary(),
        summary(state="RUNNING", slots=4, started_at=started, used=USED),
        summary(state="COMPLETED", started_at=started, ended_at=NOW - timedelta(hours=3) + timedelta(seconds=90)),
    ]
    table = listing(items, NOW)
    columns = [table.headings.index(name) for name in ("slots", "time", "slot hours")]
    assert [tuple(row[column] for column in columns) for row in table.rows] == [
        ("0", "", ""),
        ("4", "3 h", "7.500"),
        ("0", "90 s", ""),
    ]


@pytest.mark.parametrize(("used", "shown"), [(USED, ["7.500 slot hours, 15.000 GPU hours"]), (None, [])])
def test_what_an_experiment_used(used: Used | None, shown: list[str]) -> None:
    more: dict[str, Any] = {"spec": {}, "warnings": [], "controls": {"budget": {}}, "winner": None, "attempts": []}
    view = ExperimentView(**summary(used=used).model_dump(), **more)
    assert [fact.text for fact in facts(view, NOW) if fact.label == "used"] == shown


@pytest.mark.parametrize(
    ("priority", "ceiling", "shown"),
    [
        (5, None, "2 now, priority 5"),
        (5, 5, "2 now, priority 5"),
        (5, 3, "2 now, priority 5, which counts as 3, the highest of its team"),
    ],
)
def test_a_priority_above_the_ceiling_says_what_it_counts_as(priority: int, ceiling: int | None, shown: str) -> None:
    more: dict[str, Any] = {"spec": {}, "warnings": [], "controls": {"budget": {}}, "winner": None, "attempts": []}
    plain = summary(slots=2, priority=priority).model_dump()
    view = ExperimentView(**plain, **more, priority_ceiling=ceiling)
    assert [fact.text for fact in facts(view, NOW) if fact.label == "slots"] == [shown]
