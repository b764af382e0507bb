"""GpuProbe: the measurement on a GPU that Ray gives to the driver, in a process of its own.

Owns where and when it runs: on one whole GPU of a node that can be used, only while the experiment has a slot, and
again if its process is lost. It must not know the journal or the service.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import Directives, ErrorKind, LaunchConfig, Packing
from workers.failures import from_ray
from workers.failures.classification import classified
from workers.nodes import FIRST_ANSWERS_S, Nodes, on_node

log = logging.getLogger(__name__)

POLL_S = 1.0  # how often it is checked whether the experiment still has a slot
#: Losses of the process after which nothing is measured.
MOST_LOSSES = 3
#: Kinds of failures that are of the largest configuration. Others pass, or a person removes their cause.
LASTING = frozenset({ErrorKind.OUT_OF_MEMORY, ErrorKind.CODE})
NOT_MEASURED = "how many trials share a GPU could not be measured: "

#: `(spec, launch, selector, interrupted)`: measures on a node that Ray's label selector allows; None if interrupted.
Measure = Callable[[ExperimentSpec, LaunchConfig, Mapping[str, str], Callable[[], bool]], Packing | None]


class GpuProbe:
    """For the driver's thread that runs the search."""

    def __init__(self, nodes: Nodes, measure_once: Measure | None = None) -> None:
        self._nodes = nodes
        self._measure_once = measure_once or partial(measure_with_ray, on_gpu=True)

    def measure(
        self,
        spec: ExperimentSpec,
        launch: LaunchConfig,
        directives: Callable[[], Directives],
        stop_requested: Callable[[], bool],
    ) -> Packing | None:
        """How many trials share a GPU: one, with a note, if the largest configuration cannot be trained.

        Without a slot, it waits for one. None: the attempt must stop, or what failed may not fail again: the process
        was lost too often, no node can be used, a disk is full, or data or a plugin must be repaired.
        """
        losses = 0
        while not stop_requested():
            self._nodes.pool = directives().pool or self._nodes.pool
            if not directives().slots:
                threading.Event().wait(POLL_S)
                continue
            self._nodes.look(FIRST_ANSWERS_S)
            try:
                found = self._measure_once(
                    spec, launch, self._nodes.selector(), lambda: stop_requested() or not directives().slots
                )
            except Exception as error:
                failure = from_ray.classify(error, str(error))
                log.warning("%s%s, %s", NOT_MEASURED, failure.kind, failure.reason)
                if failure.node:
                    self._nodes.exclude(failure)
                    if self._nodes.any_left(_needed(spec)):
                        continue
                    return None
                losses += 1
                if failure.kind is ErrorKind.LOST and losses < MOST_LOSSES:
                    continue
                lasts = failure.kind in LASTING
                return Packing(trials=1, note=f"{NOT_MEASURED}{failure.reason}") if lasts else None
            if found is not None:
                return found
        return None


def measure_with_ray(
    spec: ExperimentSpec,
    launch: LaunchConfig,
    selector: Mapping[str, str],
    interrupted: Callable[[], bool],
    *,
    on_gpu: bool,
) -> Packing | None:
    """As a task of Ray that holds a GPU and the CPUs of a trial; see `Measure`. Without `on_gpu` it trains on the CPU,
    for tests. Raises what Ray raises."""
    needed = _needed(spec)
    remote: Any = ray.remote(
        num_cpus=needed["CPU"],
        num_gpus=needed["GPU"],
        max_calls=1,  # a plugin may change its process
        max_retries=0,
        label_selector=dict(selector),
    )(_measure_here)
    task = remote.remote(spec, launch, on_gpu)
    while not ray.wait([task], timeout=POLL_S)[0]:
        if interrupted():
            ray.cancel(task, force=True)
            return None
    found: Packing = ray.get(task)
    return found


def _measure_here(spec: ExperimentSpec, launch: LaunchConfig, on_gpu: bool) -> Packing:
    """Measure on this node, in processes of its own. Raises TrialError."""
    with classified(), on_node(launch.storage, launch.marker, launch.version):
        from workers.data.splits import load  # torch, which the driver does not need
        from workers.packing.largest import LargestSearch
        from workers.packing.number import with_cpus
        from workers.packing.probe import Roots, measure
        from workers.trial.device import select_device

        roots = Roots(Path(launch.data_root), Path(launch.cache_root))
        splits = load(spec.dataset, spec.seed, roots.data, roots.cache)
        count, channels, height, width = splits.train_images.shape
        largest = LargestSearch(spec, (count, channels, height, width), splits.classes).find()
        largest = largest.model_copy(update={"gpus": 1.0 if on_gpu else 0.0})
        select_device(largest)  # here, where a GPU that cannot be used is known to be a problem of the node
        most = with_cpus(*_of_this_node(), spec.resources.cpus_per_trial)
        return measure(largest, roots, most)


def _needed(spec: ExperimentSpec) -> dict[str, float]:
    return {"CPU": float(spec.resources.cpus_per_trial), "GPU": 1.0}


def _of_this_node() -> tuple[float, float]:
    """Its CPUs and GPUs."""
    own = ray.get_runtime_context().get_node_id()
    found = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == own)
    return found.get("CPU", 0.0), found.get("GPU", 0.0)
