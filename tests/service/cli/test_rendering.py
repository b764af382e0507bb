"""How trials look as text: what fits in a terminal, and that nothing in them disturbs it."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from search_spaces.protocol import TrialState
from service.cli.rendering import classes, leaderboard, outcome
from service.contract.schemas import TrialView
from tests.support.data_reports import data_report

CUTOFF = "rung at epoch 3: validation_accuracy 0.9100 is below 0.9777, the cutoff for the best 1/3 of 9 earlier trials"
FAILURE = "RuntimeError: [/b] mat1\nand \x1b[31mmat2 cannot be multiplied"
KINDS = {"model.kind": "resnet", "normalization.kind": "batch", "scheduler.kind": "one_cycle", "batch_size": 64}


def trial(number: int, state: TrialState, reason: str, **fields: Any) -> TrialView:
    given: dict[str, Any] = {"epoch": 3, "best_value": 0.91, "best_epoch": 2, "metrics": {}, "parameters": {}}
    empty = dict.fromkeys(("mlflow_run_id", "mlflow_url", "started_at", "ended_at"))
    return TrialView(trial=number, state=state, stop_reason=reason, **given | empty | fields)


ENDED = [
    trial(
        10, TrialState.EARLY_STOPPED, CUTOFF, parameters=KINDS | {"optimizer.kind": "adam", "optimizer.lr": 0.001234}
    ),
    trial(2, TrialState.ERROR, FAILURE, best_epoch=None, parameters={"optimizer.kind": "[/b]", "optimizer.lr": 0.1}),
]


def lines(trials: list[TrialView], width: int) -> list[str]:
    screen = io.StringIO()
    Console(file=screen, width=width, color_system=None).print(leaderboard(trials, "validation_accuracy", width))
    return [line.rstrip() for line in screen.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("width", "headings", "reason"),
    [
        (48, "trial  state          epoch  accuracy  at", ""),
        (80, "trial  state          epoch  accuracy  at  optimizer  reason", "rung at epoch 3: 0.9100 i…"),
        (
            140,
            "trial  state          epoch  accuracy  at  optimizer  lr        model   normalization  reason",
            "rung at epoch 3: 0.9100 is below 0.9777, the cutoff …",
        ),
        (
            210,
            "trial  state          epoch  accuracy  at  optimizer  lr        model   normalization  "
            "scheduler  batch_size  reason",
            "rung at epoch 3: 0.9100 is below 0.9777, the cutoff for the best 1/3 of 9 earlier trials",
        ),
    ],
)
def test_a_leaderboard_says_why_in_what_width_is_left(width: int, headings: str, reason: str) -> None:
    heading, stopped, failed, *note = lines(ENDED, width)
    assert heading == headings
    assert stopped.startswith("   10  EARLY_STOPPED      3      0.91   2")
    assert stopped.endswith(reason)
    assert failed.startswith("    2  ERROR              3      0.91   -")
    assert max(map(len, (heading, stopped, failed))) <= width
    every = ("optimizer", "lr", "model", "normalization", "scheduler", "batch_size")
    missing = [name for name in every if name not in heading.split()]
    said = f"left out, because the terminal is too narrow: {', '.join(missing)}" if missing else ""
    assert " ".join(note) == said


def test_parameters_have_all_the_width_where_nothing_has_stopped() -> None:
    running = [
        trial(number, TrialState.RUNNING, "", parameters={"optimizer.lr": 0.1 * number, "batch_size": 16 << number})
        for number in range(2)
    ]
    assert lines(running, 80)[0].split() == ["trial", "state", "epoch", "accuracy", "at", "lr", "batch_size"]


def test_text_of_a_library_neither_colors_nor_breaks_a_line() -> None:
    *_, failed = lines(ENDED, 200)
    assert failed.endswith("RuntimeError: [/b] mat1 and [31mmat2 cannot be multiplied")
    assert "\x1b" not in failed


def test_the_outcome_of_a_trial_is_printed_in_full() -> None:
    assert outcome(ENDED[0]) == f"  trial 10  EARLY_STOPPED after epoch 3, best at epoch 2: {CUTOFF}"
    assert outcome(trial(0, TrialState.RUNNING, "", best_epoch=None)) == "  trial 0   RUNNING after epoch 3"


def test_a_long_class_name_leaves_room_for_the_counts() -> None:
    report = data_report(classes=["o" * 255, "鳥" * 85])
    screen = io.StringIO()
    Console(file=screen, width=200, color_system=None).print(classes(report))
    heading, owl, wren, _ = (line.rstrip() for line in screen.getvalue().splitlines())
    assert cell_len(heading) == cell_len(owl) == cell_len(wren) < 80
    assert owl.startswith("o" * 39)
    for split, name in ((split, name) for split in report.counts for name in (owl, wren)):
        assert str(report.counts[split][0 if name is owl else 1]) in name.split()
