"""The route for Prometheus: the metrics of this replica, of the queue and of the cluster."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse

from service.api import headers
from service.api.callers import public
from service.api.exposition import MEDIA_TYPE
from service.api.scrapes import Scrapes
from service.api.thread_pools import CurrentPools

router = APIRouter(tags=["system"])


async def _scrapes(request: Request) -> Scrapes:
    scrapes: Scrapes = request.app.state.scrapes
    return scrapes


@router.get(
    "/metrics",
    summary="Get the metrics",
    dependencies=[public()],  # they name nobody, and are wanted most while the database does not answer
    response_class=PlainTextResponse,
    responses={200: headers.success("The metrics in the text format of Prometheus.")},
)
async def show_metrics(scrapes: Annotated[Scrapes, Depends(_scrapes)], pools: CurrentPools) -> Response:
    """Answers within three seconds, also while a part does not answer: its metrics are then absent.

    What the database says is the same on every replica; what a replica does is only in its own metrics.
    """
    return Response(await scrapes.text(pools), headers={"Content-Type": MEDIA_TYPE})
