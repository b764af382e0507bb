"""Route of an experiment's data: what Rung knows of them."""

from __future__ import annotations

from fastapi import APIRouter

from search_spaces.datasets.report import DataReport
from search_spaces.protocol import API_PREFIX
from service.api import headers
from service.api.access import VisibleExperiment
from service.api.callers import may
from service.api.error_handlers import error_responses, unavailable
from service.contract.errors import NotFoundError, UnavailableError
from service.identity.permissions import Permission

router = APIRouter(prefix=f"{API_PREFIX}/experiments/{{experiment_id}}", tags=["experiments"])


@router.get(
    "/data",
    summary="Get what is known of an experiment's data",
    dependencies=[may(Permission.EXPERIMENT_READ)],
    responses={
        200: headers.success("The classes, the splits and the files."),
        **error_responses(NotFoundError, UnavailableError),
    },
)
def show_data(visible: VisibleExperiment) -> DataReport:
    """Returns the classes, the size of each split and what the files are like, once a trial has read them."""
    with visible.read() as (_, experiment):
        files, state = visible.context.files(experiment.id), experiment.state
    try:
        report = files.data_report()
    except (OSError, ValueError) as error:
        raise unavailable(f"what is known of the data of {experiment.id} cannot be read", error) from None
    if report is None:
        raise NotFoundError(f"experiment {experiment.id} is {state}, and no trial has read its data")
    return report
