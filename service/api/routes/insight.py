"""Route of an experiment's insight: why its winner won, and how sure that is."""

from __future__ import annotations

from fastapi import APIRouter

from search_spaces.insight import Insight
from search_spaces.protocol import API_PREFIX
from service.api import headers
from service.api.access import VisibleExperiment
from service.api.callers import may
from service.api.error_handlers import error_responses, unavailable
from service.contract.errors import ConflictError, NotFoundError, UnavailableError
from service.contract.states import ACTIVE, State
from service.identity.permissions import Permission

router = APIRouter(prefix=f"{API_PREFIX}/experiments/{{experiment_id}}", tags=["experiments"])


@router.get(
    "/insight",
    summary="Get why the winner won, and how sure that is",
    dependencies=[may(Permission.EXPERIMENT_READ)],
    responses={
        200: headers.success("The winner, how sure it is, what matters and what to try next."),
        **error_responses(NotFoundError, ConflictError, UnavailableError),
    },
)
def show_insight(visible: VisibleExperiment) -> Insight:
    """Returns what a completed search shows: the winner, the trials that cannot be distinguished from it, the accuracy
    to expect, the hyperparameters that matter, what the curves show, and a spec to try next."""
    with visible.read() as (_, experiment):
        files, state = visible.context.files(experiment.id), State(experiment.state)
    if state is not State.COMPLETED:
        when = (
            "it has an insight once its search is completed"
            if state in ACTIVE
            else "only a completed one has an insight"
        )
        raise ConflictError(f"experiment {experiment.id} is {state}: {when}")
    try:
        insight = files.insight()
    except (OSError, ValueError) as error:
        raise unavailable(f"the insight of {experiment.id} cannot be read", error) from None
    if insight is None:
        raise NotFoundError(
            f"experiment {experiment.id} has no insight: no trial has a value, an older version of Rung completed "
            "it, or it could not be computed, as the log of its driver says"
        )
    return insight
