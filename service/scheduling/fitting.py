"""Fitting: whether some node of a pool can hold one trial of a spec, and how many GPUs a trial gets by default.

A node that Ray's autoscaler can add counts as one that is there.
"""

from __future__ import annotations

from collections.abc import Collection

from search_spaces.experiment import ExperimentSpec
from search_spaces.gpu_types import GPU_TYPE_LABEL, in_words
from search_spaces.problems import Problem, SpecError
from search_spaces.resources import Resources
from service.domain.cluster import Cluster, Node
from service.scheduling.placement import Size, is_large_enough

#: The field of a spec.
GPU_TYPE = "resources.gpu_type"


def complete(spec: ExperimentSpec, cluster: Cluster | None) -> ExperimentSpec:
    """The spec with its number of GPUs decided, once nodes tell it. Raises SpecError if no node can hold a trial.

    `cluster` is what the pool of the spec has of it. One without a node does not tell which nodes will join: Ray may
    just have started.
    """
    if cluster is None or not cluster.kinds:
        return spec
    resources = spec.resources
    default = cluster.of_types(resources.gpu_types).default_gpus_per_trial
    is_open = resources.gpus is None or resources.is_auto
    gpus = default if is_open else resources.gpus or 0.0
    if problems := misfits(cluster, resources.cpus_per_trial, gpus, resources.gpu_types):
        raise SpecError(problems)
    if not is_open or (default and (resources.is_auto or not cluster.gpus)):
        return spec  # it is measured how many trials share a GPU, or the nodes with GPUs are to come
    return spec.model_copy(update={"resources": resources.with_gpus(default)})


def unknown_gpu_types(resources: Resources, cluster: Cluster | None) -> list[Problem]:
    """The types of GPUs that the pool neither has nor can get. One without a node does not tell."""
    if cluster is None or not cluster.kinds:
        return []
    known = cluster.gpu_types
    rule = f"must be {'one of ' if len(known) > 1 else ''}{', '.join(known)}: {cluster.where} has no other GPU types"
    if not known:
        rule = f"must be left out: no node of {cluster.where} has the label {GPU_TYPE_LABEL}"
    return [Problem(GPU_TYPE, rule, one) for one in sorted(resources.gpu_types) if one not in known]


def misfits(cluster: Cluster, cpus: float, gpus: float, gpu_types: Collection[str] = ()) -> list[Problem]:
    """Why no node can hold a trial of this size on GPUs of these types, if there are any; empty if one can."""
    where, of_pool = cluster.where, f" of {cluster.where}" if cluster.pool else ""
    if gpu_types and cluster.kinds:
        cluster, of_type = cluster.of_types(gpu_types), f" with {in_words(gpu_types)}"
        if not cluster.kinds:
            return [Problem(GPU_TYPE, f"needs a node{of_type}, but {where} has none")]
        of_pool += of_type
    if is_large_enough(cluster.kinds, Size.of(cpus, gpus)):
        return []
    if not cluster.kinds:
        return [Problem("resources", f"needs a node, but {where} has none")]
    found = []
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
