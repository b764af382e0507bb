"""Routes of the service itself: is it alive, is it ready, what does it see."""

from __future__ import annotations

from fastapi import APIRouter, Response
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from search_spaces.stored import StoredSpec
from service.api.dependencies import Service
from service.context import AppContext
from service.contract.schemas import Check, ClusterStatus, Health, NodeView, Readiness, Share
from service.contract.states import ACTIVE, State
from service.store.models import Experiment

health = APIRouter(tags=["system"])
router = APIRouter(tags=["system"])


@health.get("/healthz")
def healthz() -> Health:
    """The process answers."""
    return Health(status="ok")


@health.get("/readyz", responses={503: {"model": Readiness, "description": "The database does not answer"}})
def readyz(service: Service, response: Response) -> Readiness:
    """Whether specs can be accepted, and what is away. Only the database decides over `ready`."""
    database = _database(service)
    away = service.mlflow_probe.unavailable_reason()
    sight = service.cluster_cache.snapshot
    if not database.ok:
        response.status_code = 503
    return Readiness(
        ready=database.ok,
        database=database,
        ray=Check(ok=sight.cluster is not None, why=sight.why),
        mlflow=Check(ok=not away, why=away),
    )


@router.get("/cluster")
def show_cluster(service: Service) -> ClusterStatus:
    """The nodes as last seen, and the slots of each experiment that runs or waits."""
    sight = service.cluster_cache.snapshot
    with service.database.read() as session:
        query = select(Experiment).where(Experiment.state.in_(ACTIVE))
        active = list(session.scalars(query.order_by(Experiment.created_at, Experiment.id)))
    nodes = sight.cluster.nodes if sight.cluster else ()
    return ClusterStatus(
        reachable=sight.cluster is not None,
        why=sight.why,
        seen_at=sight.at,
        nodes=[NodeView(name=node.name, cpus=node.cpus, gpus=node.gpus) for node in nodes],
        shares=[_share(experiment) for experiment in active],
    )


def _share(experiment: Experiment) -> Share:
    resources = StoredSpec(experiment.spec).resources
    return Share(
        experiment_id=experiment.id,
        name=experiment.name,
        state=State(experiment.state),
        slots=experiment.slots,
        cpus_per_trial=resources.cpus_per_trial,
        gpus_per_trial=resources.gpus_per_trial or 0,
    )


def _database(service: AppContext) -> Check:
    try:
        service.database.ping()
    except SQLAlchemyError as error:
        return Check(ok=False, why=str(error).splitlines()[0])
    return Check(ok=True, why="")
