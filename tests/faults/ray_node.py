"""Ray node: another node of a Ray whose head listens on loopback only, for as long as this process runs.

`ray start` refuses a second node there. Arguments: the head's address, the node's name, its CPUs, its labels as JSON,
and three free ports.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

from ray._private.node import Node
from ray._private.parameter import RayParams

if __name__ == "__main__":
    address, name, cpus, labels, listen, grpc, metrics = sys.argv[1:]
    start: Any = RayParams
    parameters = start(
        gcs_address=address,
        node_name=name,
        num_cpus=int(cpus),
        labels=json.loads(labels),
        node_ip_address="127.0.0.1",
        dashboard_agent_listen_port=int(listen),
        metrics_agent_port=int(grpc),
        metrics_export_port=int(metrics),
    )
    node: Any = Node
    node(parameters, head=False, shutdown_at_exit=True, spawn_reaper=False)
    signal.pause()
