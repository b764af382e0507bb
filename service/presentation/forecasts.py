"""Forecasts: what a search will probably take."""

from __future__ import annotations

from search_spaces.phrases import counted, rounded
from service.contract.forecast import Forecast, Range
from service.presentation.text import Fact, one_line


def forecast(of: Forecast) -> list[Fact]:
    """What a search will probably take, and what the hours rest on."""
    facts = [Fact("epochs", f"{_probably(of.trial_epochs)} in {counted(of.trials, 'trial')}")]
    if of.slot_hours is not None:
        facts.append(Fact("hours", f"{_probably(of.slot_hours)} of slots"))
    if of.gpu_hours is not None and of.gpu_hours.high:
        facts.append(Fact("hours", f"{_probably(of.gpu_hours)} of GPUs"))
    return [*facts, Fact("basis", one_line(of.basis))]


def _probably(found: Range) -> str:
    if found.low == found.high:
        return rounded(found.expected)
    return f"about {rounded(found.expected)} ({rounded(found.low)} to {rounded(found.high)})"
