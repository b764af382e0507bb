"""Nodes: which machines of the cluster can work for an experiment: those of its pool that see its storage, have its
Rung and can load its data.

Owns the check of a node, by a process that runs there (`on_node`) and ahead of time by the driver (`Nodes`), and which
nodes have failed it. Whether a node can load the data shows only when it does. It must not know what runs on a node.
"""

from __future__ import annotations

import logging
import platform
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from typing import Any, Protocol

import ray

from search_spaces.datasets.base import DataUnavailableError
from search_spaces.layout import NAMES
from search_spaces.pool_nodes import PoolNodes
from search_spaces.protocol import ErrorKind, LaunchConfig
from search_spaces.storage.base import MISPLACED_ERRNOS, UNUSABLE_ERRNOS, open_root, open_storage, read_document
from workers.failures.classification import Failure, NodeError, classify
from workers.leaving_nodes import Announcements, LeavingNodes, seconds_until

log = logging.getLogger(__name__)

NODE_ID_LABEL = "ray.io/node-id"  # Ray gives each node this label
FIRST_ANSWERS_S = 10.0  # how long a search waits for the other nodes before it starts
LOOK_S = 10.0  # how often the driver looks for nodes that have joined
#: A node that failed is checked again after this time, then after twice as long, and so on: servers of files are often
#: back within minutes, and where they are not, a try costs a trial the start of a process.
AGAIN_S = 600.0
#: A client of a network file system may have cached that a new folder does not exist.
VISIBLE_TRIES, VISIBLE_PAUSE_S = 4, 0.5


def own_version() -> str:
    return installed_version("rung")


def check_node(storage: str, marker: str, version: str) -> None:
    """Raise NodeError where this process's node cannot be used. An empty `marker` or `version` is not compared."""
    if found := problem_of_node(storage, marker, version):
        node, name = this_node()
        raise NodeError(f"node {name} {found}", node)


@contextmanager
def on_node(storage: str, marker: str, version: str, *, first: bool = True) -> Iterator[None]:
    """Check the node, and again if the block raises OSError: the storage may have gone away meanwhile.

    Data that cannot be reached from here, and a full disk of the cache, are failures of the node too, but not a lack of
    memory. Unless it is the `first` block, the node was checked before.
    """
    if first:
        check_node(storage, marker, version)
    try:
        yield
    except OSError:
        check_node(storage, marker, version)
        raise
    except DataUnavailableError as error:
        kind = classify(error).kind
        if kind is ErrorKind.OUT_OF_MEMORY:  # a cache in memory
            raise
        node, name = this_node()
        raise NodeError(f"node {name} cannot load the data set: {error}", node, kind) from error


@contextmanager
def using_storage(storage: str) -> Iterator[None]:
    """In the block, only files of the experiment are read and written: where they cannot be, the node cannot be used.

    A full disk is not such an error: it pauses the experiment.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in UNUSABLE_ERRNOS | MISPLACED_ERRNOS:
            raise
        node, name = this_node()
        root = storage.rpartition("/")[0]
        raise NodeError(f"node {name} cannot use RUNG_STORAGE_ROOT {root}: {error}", node) from error


def problem_of_node(storage: str, marker: str, version: str) -> str:
    """What is wrong with this process's node, to be read after its name; empty if it can be used."""
    if version and version != own_version():
        return f"has Rung {own_version()}, but the experiment runs with {version}: all nodes need the same version"
    if not marker:
        return ""
    root, file = storage.rpartition("/")[0], f"{storage}/{NAMES.marker}"
    for left in reversed(range(VISIBLE_TRIES)):
        try:
            found = read_document(open_storage(storage).artifacts, NAMES.marker).decode(errors="replace")
            return "" if found == marker else f"sees another folder as RUNG_STORAGE_ROOT {root}: {file} differs"
        except OSError as error:
            if not left:
                return not_read(storage, file, error)
            time.sleep(VISIBLE_PAUSE_S)
    raise AssertionError


def not_read(storage: str, file: str, error: OSError) -> str:
    """What is wrong with a node that cannot read a file of an experiment, to be read after its name.

    Where its root holds a file, the root is there: an empty one may be a file system that is not mounted.
    """
    root, why = storage.rpartition("/")[0], error.strerror or str(error)
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"cannot read {file} in RUNG_STORAGE_ROOT {root}: {why}"
    if not _is_known(root) and not _holds_a_file(root):
        return f"does not see RUNG_STORAGE_ROOT {root}: {file}: {why}"
    gone = file if _holds_a_file(storage) else f"the experiment, {storage},"
    return f"sees RUNG_STORAGE_ROOT {root}, but {gone} is gone from it, or it is another folder than the service's"


def _is_known(root: str) -> bool:
    """Whether a root has an identity."""
    try:
        return open_root(root).identity() is not None
    except OSError:
        return False


def _holds_a_file(address: str) -> bool:
    """Whether anything is stored at the address of an experiment, or of the root of all experiments."""
    try:
        return any(True for _ in open_storage(address).artifacts.list())
    except OSError:
        return False


def this_node() -> tuple[str, str]:
    """Ray's id of this process's node, empty outside Ray, and the name under which users know the node."""
    node = str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""
    names = {one["NodeID"]: one.get("NodeName") for one in ray.nodes()} if node else {}
    return node, names.get(node) or platform.node()


class Cluster(Announcements, Protocol):
    """The nodes as a driver sees them; the production implementation is `RayCluster`."""

    def nodes(self) -> list[Mapping[str, Any]]:
        """The living nodes, as `ray.nodes` describes them."""

    def begin_check(self, node: str, launch: LaunchConfig) -> Any:
        """Begin a check on a node; returns what `checked` takes."""

    def checked(self, begun: list[Any], timeout_s: float) -> dict[Any, str | None]:
        """The problems of the nodes whose check has ended by then; "" for one that can be used, None for no answer."""


class RayCluster:
    def __init__(self) -> None:
        self._node_of_actor: dict[str, str] = {}

    def nodes(self) -> list[Mapping[str, Any]]:
        return [node for node in ray.nodes() if node["Alive"]]

    def begin_check(self, node: str, launch: LaunchConfig) -> Any:
        task: Any = ray.remote(num_cpus=0, max_retries=0, label_selector={NODE_ID_LABEL: node})(_check_by_value())
        return task.remote(launch.storage, launch.marker, launch.version)

    def checked(self, begun: list[Any], timeout_s: float) -> dict[Any, str | None]:
        found: dict[Any, str | None] = {}
        for task in ray.wait(begun, num_returns=len(begun), timeout=timeout_s)[0]:
            try:
                found[task] = ray.get(task)
            except Exception as error:  # its node has died, or a process of it
                log.warning("a node could not be checked: %r", error)
                found[task] = None
        return found

    def draining(self) -> dict[str, float]:
        """By Ray's private interface, which Ray Train uses for the same purpose; Ray is pinned to one minor version."""
        from ray._private.state import state

        now_s = time.time()
        return {node: seconds_until(deadline, now_s) for node, deadline in state.get_draining_nodes().items()}

    def node_of(self, actor: Any) -> str:
        from ray._private.state import state

        actor_id = actor._actor_id.hex()
        if not self._node_of_actor.get(actor_id):
            self._node_of_actor[actor_id] = str(state.actor_table(actor_id).get("Address", {}).get("NodeID", ""))
        return self._node_of_actor[actor_id]


class Nodes:
    """The nodes that an experiment must not use for now, and why. For the driver's thread that runs the search.

    A node is used again once a later check finds no problem; whether it can load the data, the next trial there shows.
    `leaving` are not used either, but no failure. Other threads may ask for `excluded` and `notice`. `pool` may be
    replaced: from then on, `selector` is another.

    `clock` gives monotonic seconds.
    """

    def __init__(
        self, launch: LaunchConfig, cluster: Cluster | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.pool: PoolNodes = launch.pool
        self._launch = launch
        self._cluster: Cluster = cluster or RayCluster()
        self._clock = clock
        self._living: list[Mapping[str, Any]] = []  # at the newest look
        self._known = {this_node()[0]}  # the driver's own was checked at its start
        self._begun: dict[Any, tuple[str, str]] = {}
        self._next_look = 0.0
        self._unusable: dict[str, Failure] = {}  # by Ray's id; replaced, not changed, as other threads read it
        self._again: dict[str, float] = {}  # when such a node is checked again, unless it is being checked
        self._exclusions: Counter[str] = Counter()
        self.leaving = LeavingNodes(self._cluster, clock)
        self._exclude_again(launch.excluded_nodes)

    def look(self, wait_s: float = 0.0) -> None:
        """Check nodes that have joined, and again those that failed some time ago; learn which ones leave.

        Waits at most `wait_s` for their answers. Often called: mostly does nothing.
        """
        self.leaving.look()
        if self._clock() >= self._next_look:
            self._next_look = self._clock() + LOOK_S
            due = [node for node, at in self._again.items() if self._clock() >= at]
            nodes = self._of_pool()
            asked = [one for one in nodes if one["NodeID"] not in self._known or one["NodeID"] in due]
            for found in asked:
                self._known.add(found["NodeID"])
                self._again.pop(found["NodeID"], None)
                begun = self._cluster.begin_check(found["NodeID"], self._launch)
                self._begun[begun] = found["NodeID"], found.get("NodeName") or found["NodeID"]
        if self._begun:
            for task, problem in self._cluster.checked(list(self._begun), wait_s).items():
                node, name = self._begun.pop(task)
                if problem:
                    self.exclude(Failure(ErrorKind.NODE, f"node {name} {problem}", node))
                elif problem is None and node in self._unusable:
                    self.exclude(self._unusable[node])
                elif node in self._unusable:
                    log.info("node %s is used again", name)
                    self._unusable = {other: failure for other, failure in self._unusable.items() if other != node}
                    self._again.pop(node, None)

    def exclude(self, failure: Failure) -> None:
        """Do not use the node of this failure until it is checked again."""
        node = failure.node
        if node not in self._again:
            self._again[node] = self._clock() + AGAIN_S * 2 ** self._exclusions[node]
            self._exclusions[node] += 1
        if node not in self._unusable:
            log.error("%s; this experiment does not use it for now", failure.reason)
            self._unusable = {**self._unusable, node: failure}

    def _exclude_again(self, nodes: Collection[str]) -> None:
        """Nodes that failed the attempt before: a check does not show that they can load the data."""
        self._known.update(nodes)
        names = {one["NodeID"]: one.get("NodeName") for one in self._cluster.nodes()} if nodes else {}
        for node in nodes:
            self.exclude(Failure(ErrorKind.NODE, f"node {names.get(node) or node} failed the attempt before", node))

    def excluded(self) -> list[str]:
        """Ray's ids of the nodes that must not be used."""
        return sorted(self._unusable.keys() | self.leaving.ids)

    def unusable(self) -> list[str]:
        """Those that have failed a check."""
        return sorted(self._unusable)

    def reason(self) -> str:
        """Why nodes cannot be used; empty if all can."""
        return "; ".join(failure.reason for failure in self._unusable.values())

    def notice(self) -> str:
        """Why some nodes are not used; empty if all are."""
        names = {one["NodeID"]: one.get("NodeName") or one["NodeID"] for one in self._living}
        leaving = [
            f"node {names[node]} ends soon, so its trials leave it" for node in self.leaving.ids if node in names
        ]
        return "; ".join(filter(None, (self.reason(), *sorted(leaving))))

    def kinds(self) -> set[ErrorKind]:
        """The kinds of what is wrong with the nodes that are not used."""
        return {failure.kind for failure in self._unusable.values()}

    def any_left(self, resources: Mapping[str, float]) -> bool:
        """Whether a node that can be used is large enough for `resources`, when it is empty."""
        return any(
            all(node["Resources"].get(name, 0) >= share for name, share in resources.items())
            for node in self._of_pool()
            if node["NodeID"] not in self._unusable
        )

    def selector(self) -> dict[str, str]:
        """Ray's label selector for the nodes that can be used."""
        foreign = {one["NodeID"] for one in self._living if self.pool.is_left(one.get("Labels") or {})}
        return {**avoiding(sorted(foreign.union(self.excluded()))), **self.pool.selector()}

    def _of_pool(self) -> list[Mapping[str, Any]]:
        self._living = self._cluster.nodes()
        return [one for one in self._living if self.pool.has(one.get("Labels") or {})]


def avoiding(nodes: list[str]) -> dict[str, str]:
    """Ray's label selector for all nodes but these."""
    return {NODE_ID_LABEL: f"!in({', '.join(nodes)})"} if nodes else {}


def _check_by_value() -> Callable[[str, str, str], str]:
    """The check of a node on which any Rung may be installed, or none: Ray sends the function itself, not its name."""

    def check(storage: str, marker: str, version: str) -> str:
        from importlib.metadata import PackageNotFoundError
        from importlib.metadata import version as installed

        try:
            found = installed("rung")
        except PackageNotFoundError:
            return "has no Rung"
        if found != version:
            return f"has Rung {found}, but the experiment runs with {version}: all nodes need the same version"
        from workers.nodes import problem_of_node

        return problem_of_node(storage, marker, version)

    return check
