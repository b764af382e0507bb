"""The route of the cluster: its nodes, and what each experiment may use of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from search_spaces.pool_nodes import PoolNodes
from search_spaces.protocol import API_PREFIX
from search_spaces.stored import StoredSpec
from service.api import headers, pagination
from service.api.access import ExperimentList
from service.api.callers import may
from service.api.dependencies import CurrentContext
from service.api.error_handlers import error_responses
from service.api.integers import Integer
from service.api.pagination import Paging
from service.contract.errors import ValidationFailedError
from service.contract.schemas import ClusterStatus, NodeView, Share
from service.contract.states import State
from service.domain.cluster import Node
from service.identity.permissions import Permission
from service.scheduling import pools
from service.store.models import Experiment

router = APIRouter(prefix=API_PREFIX, tags=["system"])


class SharePaging(Paging):
    limit: Integer = Field(1000, ge=1, le=1000, description="Largest number of shares on the page.")


@router.get(
    "/cluster",
    summary="Get the cluster's state",
    dependencies=[may(Permission.CLUSTER_READ)],
    responses={200: headers.success("The cluster's state."), **error_responses(ValidationFailedError)},
)
def show_cluster(
    context: CurrentContext, visible: ExperimentList, query: Annotated[SharePaging, Query()]
) -> ClusterStatus:
    """Returns the cluster's nodes when last seen, and the slots of each running or queued experiment, oldest first."""
    snapshot = context.cluster_cache.snapshot
    with context.database.read() as session:
        active = visible.active(session, query.limit + 1, pagination.decode_experiment(query.cursor))
        shares = [_share(experiment) for experiment in active[: query.limit]]
        of_pools = pools.nodes(session)
    nodes = snapshot.cluster.nodes if snapshot.cluster else ()
    return ClusterStatus(
        reachable=snapshot.cluster is not None,
        detail=snapshot.why,
        why=snapshot.why,
        seen_at=snapshot.at,
        nodes=[_node(node, of_pools) for node in nodes],
        shares=shares,
        next_cursor=pagination.encode_experiment(active[query.limit - 1]) if len(active) > query.limit else None,
    )


def _node(node: Node, of_pools: Mapping[str, PoolNodes]) -> NodeView:
    pool = next(name for name, nodes in of_pools.items() if nodes.has(node.labels))
    return NodeView(
        name=node.name,
        cpus=node.cpus,
        gpus=node.gpus,
        gpu_type=node.gpu_type,
        pool=pool,
        labels=dict(node.labels),
    )


def _share(experiment: Experiment) -> Share:
    cpus, gpus = experiment.cpus_per_trial, experiment.gpus_per_trial
    if cpus is None:  # the size was not stored as a number
        resources = StoredSpec(experiment.spec).overview.resources
        cpus, gpus = resources.cpus_per_trial, resources.gpus
    return Share(
        experiment_id=experiment.id,
        name=experiment.name,
        state=State(experiment.state),
        slots=experiment.slots,
        cpus_per_trial=cpus,
        gpus_per_trial=gpus or 0,
        priority=experiment.priority,
        pool=experiment.pool,
        waits_for=experiment.waits_for,
    )
