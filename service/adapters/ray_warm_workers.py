"""Warm workers: idle worker processes that have imported what trials need, kept ready on every node.

A trial on a fresh process waits seconds for imports; on a warm one it starts at once (docs/decisions/0002).
Ray hands an idle process to whichever job asks first and does not replace it, so this thread does, while
nothing runs. Owns the requests to Ray's raylets, by gRPC; used where `RUNG_WARM_WORKERS` is above zero, and
only with a Ray whose workers preload `workers.preload`. Nothing depends on its success.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

KEEP_S = 7 * 86400
TIMEOUT_S = 30.0
SETTLE_S = 10.0  # after a request, before missing processes are counted again
INTERVAL_S = 2.0
NO_RUNTIME_ENV = "{}"


class WarmWorkers(threading.Thread):
    """Keeps `per_node` idle processes on each node for as long as `idle` says that nothing runs.

    `raylets` gives the addresses (host:port) of the living nodes' raylets and may raise OSError.
    """

    def __init__(self, per_node: int, raylets: Callable[[], list[str]], idle: Callable[[], bool]) -> None:
        super().__init__(name="warm-workers", daemon=True)
        self._per_node = per_node
        self._raylets = raylets
        self._idle = idle
        self._stopped = threading.Event()
        self._asked_at: dict[str, float] = {}

    def run(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            try:
                for address in self._raylets() if self._idle() else []:
                    self._fill(address)
            except Exception as error:
                # Warmth is a comfort: whatever Ray answers, the service goes on without it.
                log.warning("no warm workers: %r", error)
                self._stopped.wait(SETTLE_S)

    def stop(self) -> None:
        self._stopped.set()

    def _fill(self, address: str) -> None:
        """One process at a time: a raylet drops requests above its start-up limit."""
        if time.monotonic() - self._asked_at.get(address, -math.inf) < SETTLE_S:
            return
        if idle_workers(address) < self._per_node:
            start_idle_worker(address)
            self._asked_at[address] = time.monotonic()
        else:
            self._asked_at.pop(address, None)


def idle_workers(address: str) -> int:
    """Processes of a node that no job has taken yet."""
    request = _generated("node_manager_pb2").GetNodeStatsRequest(include_memory_info=False)
    answer = _call(address, "GetNodeStats", request)
    return sum(1 for worker in answer.core_workers_stats if worker.job_id in {b"", b"\xff" * len(worker.job_id)})


def start_idle_worker(address: str) -> None:
    """Ask a node's raylet for one more process; gives when it has registered, before its imports are done."""
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
    """Ray's protobuf modules, whose types no checker sees."""
    return importlib.import_module(f"ray.core.generated.{name}")
