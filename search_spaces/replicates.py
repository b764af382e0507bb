"""Replicates: runs of the best trials with fresh seeds, after the search, and how they are numbered.

A replicate is a trial like any other: it has a slot, a journal, a run in MLflow, and can be paused and canceled. Its
number says of which trial it is. It is no part of the search: no searcher learns of it, no rule stops it, and it is not
the best trial. It must not know how replicates are chosen or trained.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from search_spaces.domains import Integer, Number
from search_spaces.spec import Spec, field_error

#: Numbers from here on are of replicates; a search has at most 100,000 trials.
FIRST_REPLICATE = 5_000_000
MOST_FINALISTS, MOST_SEEDS = 10, 10
#: Of the epochs that a search has spent: what replicates may take where the spec says nothing.
USUAL_SHARE = 0.25


class Finalists(Spec):
    """Which of the best trials are trained again with fresh seeds once the search is over."""

    trials: Annotated[Integer, Field(ge=0, le=MOST_FINALISTS)] = Field(
        3,
        description="Number of the best trials that are trained again, at least 2; 0 turns it off. They are trained "
        "for all of `max_epochs`, and the one with the best mean over its fresh seeds wins.",
    )
    seeds: Annotated[Integer, Field(ge=1, le=MOST_SEEDS)] = Field(
        2, description="Number of fresh seeds that each of them is trained with."
    )
    max_share: Annotated[Number, Field(gt=0)] | None = Field(
        None,
        description="Largest number of epochs that this may take, as a share of those that the search has spent; above "
        "it, nothing is trained again; default: no limit. A spec without this block has 0.25.",
    )

    @model_validator(mode="after")
    def _several(self) -> Finalists:
        if self.trials == 1:
            raise field_error("trials", "must be 0 or at least 2: of one there is nothing to choose")
        return self


def replicate_number(trial: int, index: int) -> int:
    """The number of the replicate of a trial with its `index`-th fresh seed (from 0)."""
    return FIRST_REPLICATE + trial * MOST_SEEDS + index


def is_replicate(number: int) -> bool:
    return number >= FIRST_REPLICATE


def replicated(number: int) -> tuple[int, int]:
    """The trial of which a replicate is, and the index of its seed (from 0)."""
    return divmod(number - FIRST_REPLICATE, MOST_SEEDS)


def trial_of(number: int) -> int:
    """The trial of the search that a run is of: itself, or the one that was trained again with a fresh seed."""
    return replicated(number)[0] if is_replicate(number) else number


def run_name(number: int) -> str:
    """How a trial or a replicate is called in a sentence."""
    if not is_replicate(number):
        return f"trial {number}"
    trial, index = replicated(number)
    return f"trial {trial} with fresh seed {index}"
