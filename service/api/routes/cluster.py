"""The route of the cluster: its nodes, and what each experiment may use of them."""

from __future__ import annotations

from fastapi import APIRouter

from search_spaces.protocol import API_PREFIX
from search_spaces.stored import StoredSpec
from service.api import headers
from service.api.access import ExperimentList
from service.api.dependencies import CurrentContext
from service.contract.schemas import ClusterStatus, NodeView, Share
from service.contract.states import State
from service.store.models import Experiment

router = APIRouter(prefix=API_PREFIX, tags=["system"])


@router.get("/cluster", summary="Get the cluster's state", responses={200: headers.success("The cluster's state.")})
def show_cluster(context: CurrentContext, visible: ExperimentList) -> ClusterStatus:
    """Returns the cluster's nodes when last seen, and the slots of each running or queued experiment."""
    snapshot = context.cluster_cache.snapshot
    with context.database.read() as session:
        active = visible.active(session)
    nodes = snapshot.cluster.nodes if snapshot.cluster else ()
    return ClusterStatus(
        reachable=snapshot.cluster is not None,
        detail=snapshot.why,
        why=snapshot.why,
        seen_at=snapshot.at,
        nodes=[NodeView(name=node.name, cpus=node.cpus, gpus=node.gpus) for node in nodes],
        shares=[_share(experiment) for experiment in active],
    )


def _share(experiment: Experiment) -> Share:
    resources = StoredSpec(experiment.spec).overview.resources
    return Share(
        experiment_id=experiment.id,
        name=experiment.name,
        state=State(experiment.state),
        slots=experiment.slots,
        cpus_per_trial=resources.cpus_per_trial,
        gpus_per_trial=resources.gpus_per_trial or 0,
    )
