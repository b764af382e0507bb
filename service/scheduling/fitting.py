"""Fitting: whether some node of a pool can hold one trial of a spec, and how many GPUs a trial gets by default.

A node that Ray's autoscaler can add counts as one that is there.
"""

from __future__ import annotations

from search_spaces.experiment import ExperimentSpec
from search_spaces.problems import Problem, SpecError
from service.domain.cluster import Cluster, Node
from service.scheduling.placement import Size, is_large_enough


def complete(spec: ExperimentSpec, cluster: Cluster | None) -> ExperimentSpec:
    """The spec with its number of GPUs decided, once nodes tell it. Raises SpecError if no node can hold a trial.

    `cluster` is what the pool of the spec has of it. One without a node does not tell which nodes will join: Ray may
    just have started.
    """
    if cluster is None or not cluster.kinds:
        return spec
    resources, default = spec.resources, cluster.default_gpus_per_trial
    is_open = resources.gpus is None or resources.is_auto
    gpus = default if is_open else resources.gpus or 0.0
    if problems := misfits(cluster, resources.cpus_per_trial, gpus):
        raise SpecError(problems)
    if not is_open or (default and (resources.is_auto or not cluster.gpus)):
        return spec  # it is measured how many trials share a GPU, or the nodes with GPUs are to come
    return spec.model_copy(update={"resources": resources.with_gpus(default)})


def misfits(cluster: Cluster, cpus: float, gpus: float) -> list[Problem]:
    """Why no node can hold a trial of this size; empty if one can."""
    if is_large_enough(cluster.kinds, Size.of(cpus, gpus)):
        return []
    if not cluster.kinds:
        return [Problem("resources", f"needs a node, but {cluster.where} has none")]
    found, of_pool = [], f" of {cluster.where}" if cluster.pool else ""
    most_gpus = max(cluster.kinds, key=lambda node: (node.gpus, node.cpus))
    most_cpus = max(cluster.kinds, key=lambda node: (node.cpus, node.gpus))
    if gpus > int(most_gpus.gpus):
        rule = f"must be at most {int(most_gpus.gpus)}: the largest node{of_pool}, {_size(most_gpus)}, has no more GPUs"
        found.append(Problem("resources.gpus_per_trial", rule, gpus))
    if cpus > most_cpus.cpus:
        rule = f"must be at most {most_cpus.cpus:g}: the largest node{of_pool}, {_size(most_cpus)}, has no more CPUs"
        found.append(Problem("resources.cpus_per_trial", rule, cpus))
    if not found:
        rule = f"no node{of_pool} has {cpus:g} CPUs and {gpus:g} GPUs at once; the largest are {_size(most_cpus)}"
        rule += f" and {_size(most_gpus)}" if most_gpus != most_cpus else ""
        found.append(Problem("resources", rule))
    return found


def _size(node: Node) -> str:
    return f"{node.name} with {node.cpus:g} CPUs and {node.gpus:g} GPUs"
