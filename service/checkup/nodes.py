"""Nodes: what the nodes of the cluster say of themselves, and what follows from it.

Owns the job that asks them: it sees what a driver would see. `findings` is a pure function of the answers. It must not
know HTTP.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from importlib.metadata import version

from pydantic import ValidationError

from search_spaces.layout import NAMES
from search_spaces.node_report import MARK, NodeQuestion, NodeReport, NodeReports
from search_spaces.storage.base import open_storage
from service.adapters.launcher import ALIVE, ClusterUnreachableError
from service.checkup.parts import DEFAULT_DATA, TRIAL_NAME
from service.context import AppContext
from service.contract.checkup import CLOCK_S, Finding, Part, clock_difference_s, free_space, ok, problem, warning
from service.contract.errors import SEE_LOG
from service.settings import variable

#: For the nodes to answer: on a busy machine, Ray takes a minute to start a process.
NODES_S = 90.0
#: For the job: its own start comes first.
JOB_S = 150.0
POLL_S = 0.5
MODULE = "workers.checkup"
#: Packages that should be the same on all nodes, and why.
SAME = {"torch": "trials of one search would compute differently", "python": "Ray needs the same one on all nodes"}

log = logging.getLogger(__name__)


def examine(
    context: AppContext,
    monotonic: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> list[Finding]:
    """Ask all nodes. Takes at most about JOB_S, and the timeouts of Ray's calls."""
    job = f"{TRIAL_NAME}{secrets.token_hex(8)}"
    settings, marker = context.settings, secrets.token_hex(8)
    storage = open_storage(f"{settings.storage_root}/{job}")
    question = NodeQuestion(
        storage=f"{settings.storage_root}/{job}",
        marker=marker,
        data_root="" if settings.data_root == settings.home / DEFAULT_DATA else str(settings.data_root),
        cache_root=str(settings.cache_root),
        timeout_s=NODES_S,
    )
    try:
        storage.create()
        try:
            storage.artifacts.write(NAMES.marker, marker.encode())
            context.launcher.run(job, MODULE, [question.model_dump_json()])
            deadline = monotonic() + JOB_S
            while context.launcher.status(job) in ALIVE and monotonic() < deadline:
                pause(POLL_S)
            printed = context.launcher.logs(job)
            context.launcher.stop(job)
        finally:
            storage.remove()
    except ClusterUnreachableError as error:
        log.warning("the nodes could not be asked: %s", error)
        return [problem(Part.NODE, f"the nodes could not be asked: Ray does not answer; {SEE_LOG}", "see ray, above")]
    except OSError as error:
        log.warning("the nodes could not be asked: %s", error)
        return [problem(Part.NODE, "the nodes could not be asked: the storage fails", "see storage, above")]
    for line in printed.splitlines():
        if line.startswith(MARK):
            try:
                return findings(NodeReports.model_validate_json(line.removeprefix(MARK)).nodes)
            except ValidationError as error:
                log.warning("the nodes sent an answer that cannot be read: %s", error)
    log.warning("the nodes did not answer; the job printed: %s", printed[-2000:])
    remedy = f"see whether Rung is installed at {variable('driver_python')} on the head node; {SEE_LOG}"
    return [problem(Part.NODE, f"the nodes did not answer within {JOB_S:g} s", remedy)]


def findings(nodes: list[NodeReport]) -> list[Finding]:
    """What the answers of all nodes mean."""
    found = [one for node in nodes for one in _of_node(node)]
    for package, why in SAME.items():
        versions = {node.versions[package] for node in nodes if node.versions.get(package)}
        if len(versions) > 1:
            detail = f"the nodes have different versions of {package}: {', '.join(sorted(versions))}"
            found.append(warning(Part.NODE, detail, f"install the same one on all nodes: {why}"))
    return found


def _of_node(node: NodeReport) -> list[Finding]:
    name = f"node {node.name}"
    if node.silent:
        return [
            problem(Part.NODE, f"{name} did not answer within {NODES_S:g} s", "see whether it hangs or is overloaded")
        ]
    if node.problem:
        return [problem(Part.NODE, f"{name} could not be examined: {node.problem}", "look at Ray's logs on it")]
    rung, own = node.versions.get("rung", ""), version("rung")
    if rung != own:
        has = f"has Rung {rung}" if rung else "has no Rung"
        return [problem(Part.NODE, f"{name} {has}, but the service has {own}", "install the same version on all nodes")]
    found = []
    if node.storage_problem or node.write_problem:
        why = node.storage_problem or f"cannot write to {variable('storage_root')}: {node.write_problem}"
        found.append(problem(Part.NODE, f"{name} {why}", "mount the storage there, with the same path"))
    if node.usable_gpus is not None and node.usable_gpus < node.gpus:
        detail = f"{name} has {node.gpus:g} GPUs in Ray, but torch can use {node.usable_gpus}"
        found.append(problem(Part.NODE, detail, "install the driver, or a torch for its version of CUDA"))
    if not node.has_data_root:
        detail = f"{name} does not see {variable('data_root')}"
        found.append(warning(Part.NODE, detail, "mount it there, with the same path, unless all data is downloaded"))
    if abs(ahead_s := clock_difference_s(node.at, node.asked_at, node.answered_at)) > CLOCK_S:
        detail = f"the clock of {name} differs from the head's by at least {abs(ahead_s):.0f} s"
        found.append(warning(Part.NODE, detail, "synchronize the clocks (chrony, ntpd)"))
    if node.free_cache_bytes is not None:
        space = free_space(
            Part.NODE, f"the disk of the cache of {name}", node.free_cache_bytes, "free some space there"
        )
        found += [space] if space.remedy else []
    if found:
        return found
    gpus = f", {node.gpus:g} GPUs" if node.gpus else ""
    versions = ", ".join(
        f"{package} {node.versions[package]}" for package in ("python", "torch") if package in node.versions
    )
    return [ok(Part.NODE, f"{name} can train: {versions}{gpus}; it sees the storage and can write to it")]
