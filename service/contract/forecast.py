"""Forecast: the body of what a search will probably take, before it starts."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Range(BaseModel):
    """What is expected, and between which numbers it will probably be."""

    low: float = Field(description="It will probably not be less.")
    expected: float = Field(description="What is expected.")
    high: float = Field(description="It will probably not be more.")


class Forecast(BaseModel):
    """What a search will probably take. A goal, a budget or a cancellation may end it earlier."""

    trials: int = Field(description="Number of trials of the search.")
    trial_epochs: Range = Field(description="Epochs of all trials together, with those of the finalists.")
    slot_hours: Range | None = Field(description="Hours of slots; null where nothing similar was measured.")
    gpu_hours: Range | None = Field(description="The same, times the GPUs of a trial.")
    basis: str = Field(description="What the hours rest on, or why there are none.")
