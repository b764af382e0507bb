"""Route of a comparison: what differs between experiments, in their specs and in their results."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from search_spaces.protocol import API_PREFIX
from service.api import headers, serializers
from service.api.access import ExperimentList
from service.api.callers import may
from service.api.error_handlers import error_responses
from service.contract.comparison import MOST_EXPERIMENTS, Comparison, compare, curves_each
from service.contract.errors import NotFoundError, ValidationFailedError
from service.domain import trials
from service.identity.permissions import Permission
from service.presentation.experiments import best_first

router = APIRouter(prefix=f"{API_PREFIX}/compare", tags=["experiments"])


class Compared(BaseModel):
    """Which experiments. Unknown parameters are errors, so that a misspelled one is reported."""

    model_config = ConfigDict(extra="forbid")

    id: list[str] = Field(
        min_length=2,
        max_length=MOST_EXPERIMENTS,
        description=f"Id of an experiment; given 2 to {MOST_EXPERIMENTS} times.",
        examples=[["k3v9q2mz", "p7d4x8wn"]],
    )

    @field_validator("id")
    @classmethod
    def _different(cls, ids: list[str]) -> list[str]:
        if len(set(ids)) < len(ids):
            raise PydanticCustomError("different", "must be different ids")
        return ids


@router.get(
    "",
    summary="Compare experiments",
    dependencies=[may(Permission.EXPERIMENT_READ)],
    responses={
        200: headers.success("The experiments side by side."),
        **error_responses(NotFoundError, ValidationFailedError),
    },
)
def compare_experiments(visible: ExperimentList, query: Annotated[Compared, Query()]) -> Comparison:
    """Returns the results and best trials of 2 to 10 experiments, the fields in which their specs differ, and URLs of
    MLflow that show them side by side."""
    compared = visible.named(query.id)
    views = [experiment.show() for experiment in compared]
    best, winners = [], []
    for experiment, view in zip(compared, views, strict=True):
        with experiment.read() as (session, row):
            found, _ = trials.page(session, row, sort=best_first(view), limit=curves_each(len(views)))
            run = trials.of_winner(session, row)
        mlflow = experiment.context.mlflow
        best.append([serializers.trial(trial, row, mlflow) for trial, _ in found])
        winners.append(serializers.trial(run, row, mlflow) if run else None)
    return compare(views, best, winners)
