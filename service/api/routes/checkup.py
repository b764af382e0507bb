"""The routes of `rung doctor`: what only the service and the nodes of the cluster can see."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from search_spaces.protocol import API_PREFIX
from service.api import headers
from service.api.callers import may
from service.checkup.examinations import Examinations
from service.contract.checkup import Checkup
from service.identity.permissions import Permission

router = APIRouter(prefix=f"{API_PREFIX}/checkup", tags=["system"])


async def _examinations(request: Request) -> Examinations:
    examinations: Examinations = request.app.state.examinations
    return examinations


CurrentExaminations = Annotated[Examinations, Depends(_examinations)]


@router.get(
    "",
    summary="Examine the service's parts",
    dependencies=[may(Permission.SERVICE_EXAMINE)],
    responses={200: headers.success("What was found.")},
)
async def examine_parts(examinations: CurrentExaminations) -> Checkup:
    """Returns what the service sees of each part of the installation, and what to do. Answers within six seconds, also
    while a part hangs."""
    return await examinations.parts()


@router.post(
    "/nodes",
    summary="Examine the cluster's nodes",
    dependencies=[may(Permission.SERVICE_EXAMINE)],
    responses={200: headers.success("What was found.")},
)
async def examine_nodes(examinations: CurrentExaminations) -> Checkup:
    """Runs a short job on the cluster, which asks each node what it has and what it sees. Waits three minutes at most.
    Requests at the same time share one job."""
    return await examinations.nodes()
