"""Warm workers: idle worker processes that have imported what trials need, kept ready on every node.

A trial on a new process waits seconds for imports; on a warm one it starts at once (docs/decisions/0002). Ray gives an
idle process to the first job that asks and does not replace it, so this thread does, while nothing runs. Owns the
requests to Ray's raylets, by gRPC. It runs if `RUNG_WARM_WORKERS` is above zero, and needs a Ray whose workers preload
`workers.preload`. Nothing depends on its success.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import time
from collections.abc import Callable
from typing import Any

from search_spaces.periodic import PeriodicThread

log = logging.getLogger(__name__)

KEEP_S = 7 * 86400  # how long Ray keeps a process that no job takes
TIMEOUT_S = 30.0  # of a request to a raylet
SETTLE_S = 10.0  # after a request, before missing processes are counted again: a new process takes seconds to register
INTERVAL_S = 2.0
NO_RUNTIME_ENV = "{}"


class WarmWorkers:
    """Keeps `per_node` idle processes on each node while `idle` says that nothing runs.

    `raylets` returns the addresses (host:port) of the living nodes' raylets. Whatever it raises is logged.
    """

    def __init__(self, per_node: int, raylets: Callable[[], list[str]], idle: Callable[[], bool]) -> None:
        self._per_node = per_node
        self._raylets = raylets
        self._idle = idle
        self._asked_at: dict[str, float] = {}
        self._paused_until = -math.inf
        self._thread = PeriodicThread("warm-workers", self._run, INTERVAL_S)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Does not wait for a request that has been sent: nothing depends on its answer."""
        self._thread.stop()

    def _run(self) -> None:
        if time.monotonic() < self._paused_until:
            return
        try:
            for address in self._raylets() if self._idle() else []:
                self._fill(address)
        except Exception as error:
            # Warm workers only save time: whatever Ray answers, the service works without them.
            log.warning("warm workers could not be started: %r", error)
            self._paused_until = time.monotonic() + SETTLE_S

    def _fill(self, address: str) -> None:
        """Ask for one process at a time: a raylet drops requests above its start-up limit."""
        if time.monotonic() - self._asked_at.get(address, -math.inf) < SETTLE_S:
            return
        if idle_workers(address) < self._per_node:
            start_idle_worker(address)
            self._asked_at[address] = time.monotonic()
        else:
            self._asked_at.pop(address, None)


def idle_workers(address: str) -> int:
    """The number of processes of a node that no job has taken yet."""
    request = _generated("node_manager_pb2").GetNodeStatsRequest(include_memory_info=False)
    answer = _call(address, "GetNodeStats", request)
    return sum(1 for worker in answer.core_workers_stats if worker.job_id in {b"", b"\xff" * len(worker.job_id)})


def start_idle_worker(address: str) -> None:
    """Ask a node's raylet for one more process; returns when it has registered, before its imports are done."""
    request = _generated("node_manager_pb2").PrestartWorkersRequest(
        language=_generated("common_pb2").PYTHON,
        num_workers=1,
        keep_alive_duration_secs=KEEP_S,
        runtime_env_info=_generated("runtime_environment_pb2").RuntimeEnvInfo(serialized_runtime_env=NO_RUNTIME_ENV),
    )
    _call(address, "PrestartWorkers", request)


def _call(address: str, method: str, request: Any) -> Any:
    import grpc

    token = os.environ.get("RAY_AUTH_TOKEN", "")
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(address) as channel:
        stub = _generated("node_manager_pb2_grpc").NodeManagerServiceStub(channel)
        return getattr(stub, method)(request, metadata=metadata, timeout=TIMEOUT_S)


def _generated(name: str) -> Any:
    """One of Ray's generated protobuf modules, for which there are no types."""
    return importlib.import_module(f"ray.core.generated.{name}")
