"""Checkup: what the nodes of the cluster say of themselves. `python -m workers.checkup QUESTION` is a Ray job.

Owns how each node is asked, at the same time and for a limited time, and what a node looks at. What follows from the
answers is the service's to say.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray

from search_spaces.node_report import MARK, NodeQuestion, NodeReport, NodeReports
from search_spaces.problems import shorten
from workers.nodes import NODE_ID_LABEL


def main(arguments: list[str]) -> int:
    question = NodeQuestion.model_validate_json(arguments[0])
    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked_at = time.time()
    tasks = {_begin(node, question): node for node in nodes}
    reports, waiting, deadline = [], list(tasks), time.monotonic() + question.timeout_s
    while waiting and (left_s := deadline - time.monotonic()) > 0:
        answered, waiting = ray.wait(waiting, timeout=left_s)
        reports += [_report(tasks[task], task, asked_at) for task in answered]
    reports += [NodeReport(**_known(tasks[task]), silent=True) for task in waiting]
    print(MARK + NodeReports(nodes=sorted(reports, key=lambda report: report.name)).model_dump_json(), flush=True)
    return 0


def _begin(node: Mapping[str, Any], question: NodeQuestion) -> Any:
    look: Any = ray.remote(num_cpus=0, max_retries=0, label_selector={NODE_ID_LABEL: node["NodeID"]})(_look_by_value())
    return look.remote(question.model_dump(), _known(node)["gpus"], node["NodeID"])


def _known(node: Mapping[str, Any]) -> dict[str, Any]:
    """What Ray says of a node."""
    return {"name": str(node.get("NodeName") or node["NodeID"]), "gpus": node["Resources"].get("GPU", 0.0)}


def _report(node: Mapping[str, Any], task: Any, asked_at: float) -> NodeReport:
    answered_at = time.time()
    try:
        found = ray.get(task)
    except Exception as error:  # its node has died, or a process of it
        return NodeReport(**_known(node), problem=shorten(str(error).strip() or repr(error)))
    return NodeReport(**_known(node), asked_at=asked_at, answered_at=answered_at, **found)


def _look_by_value() -> Callable[[dict[str, Any], float, str], dict[str, Any]]:
    """What a node looks at. Any Rung may be installed there, or none: Ray sends the function itself, not its name."""

    def look(question: dict[str, Any], gpus: float, node: str) -> dict[str, Any]:
        import os
        import platform
        import shutil
        import time
        from contextlib import suppress
        from importlib.metadata import PackageNotFoundError, version

        found: dict[str, Any] = {"at": time.time()}
        found["has_data_root"] = not question["data_root"] or os.path.isdir(question["data_root"])
        versions = found["versions"] = {"python": platform.python_version()}
        for package in ("rung", "torch", "ray", "mlflow"):
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                versions[package] = ""
        folder = question["cache_root"]
        while not os.path.isdir(folder) and folder not in ("", "/"):
            folder = os.path.dirname(folder)
        with suppress(OSError):
            found["free_cache_bytes"] = shutil.disk_usage(folder).free
        if versions["rung"]:
            try:
                from pathlib import PurePath

                from search_spaces.storage.base import open_storage
                from workers.nodes import problem_of_node

                found["storage_problem"] = problem_of_node(question["storage"], question["marker"], "")
                if not found["storage_problem"]:
                    open_storage(question["storage"]).artifacts.write(PurePath(f"nodes/{node}"), b"written")
            except Exception as error:
                found["write_problem"] = str(error) or repr(error)
        if gpus and versions["torch"]:
            import torch

            found["usable_gpus"] = torch.cuda.device_count()
        return found

    return look


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
