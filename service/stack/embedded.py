"""Embedded: Ray, MLflow and the service as the children of one foreground process, which start and end together.

All listen on loopback only, except the service if another host is given; Ray requires a token that is kept in the home
folder. What each child is given is in `components`. It must not know experiments.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from service.contract.errors import InternalError, ValidationFailedError
from service.contract.home_files import MLFLOW_USER, OWNER_TOKEN
from service.stack import components, home
from service.stack.children import Children
from service.stack.components import RAY_PORTS, Check, Component
from service.stack.home import Addresses, StackError, StackOptionError
from service.stack.patience import Patience
from service.stack.ports import LOOPBACK, Ports, in_url
from service.stack.ray_folder import ray_folder, remove, temporary_folder

ANSWER_S = 5.0  # for the answer to one question; the service asks Ray and MLflow before it answers
REPORT_S = 45.0  # a start takes 10 to 20 s
POLL_S = 0.1  # between two requests to a child that is not ready
CHECK_S = 0.5  # between two checks that all children run
LOST_CHECK_S = 2.0  # between two checks of the processes of children that are not ready
#: What differs in each answer of `GET /cluster`, although nothing has happened.
TIME = re.compile(r'"seen_at":"[^"]*"')
#: How a Ray job starts a driver.
DRIVER = ("-m", "workers.driver")


@dataclass(frozen=True)
class Options:
    """The options of `rung up`. A free port is used for each port that is None, and all CPUs and GPUs if they are."""

    home: Path
    host: str = LOOPBACK
    port: int | None = None
    mlflow_port: int | None = None
    ray_dashboard_port: int | None = None
    num_cpus: int | None = None
    num_gpus: int | None = None
    data_root: Path | None = None


def up(options: Options, as_json: bool = False) -> int:
    """Run the stack in the foreground until Ctrl-C or SIGTERM, and return the exit status: 0, 1 for a failure, 2 for an
    option that cannot be used. Errors are printed.

    With `as_json`, print the addresses as one object once the stack is ready, and an error as a problem document.
    """
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        with running(options, ended) as stack:
            _report_ignored(stack.ignored, stack.missing)
            at = stack.addresses
            if as_json:
                print(json.dumps(asdict(at)), flush=True)
                stack.watch(ended)
                return 0
            print(f"Rung is running. Its home folder is {options.home}.", flush=True)
            print(f"  Service    {at.service}\n  API docs   {at.service}/docs", flush=True)
            print(f"  MLflow     {stack.mlflow}", flush=True)
            if home.owner_token(options.home):
                print(f"  Token      in {options.home / OWNER_TOKEN}", flush=True)
            print("Press Ctrl-C to stop.", flush=True)
            stack.watch(ended)
            print("stopping ...", flush=True)
    except (StackError, OSError) as error:
        is_usage = isinstance(error, StackOptionError)
        document = (ValidationFailedError if is_usage else InternalError)(str(error)).document()
        print(json.dumps(document) if as_json else f"rung up: {error}", file=sys.stderr, flush=True)
        return 2 if is_usage else 1
    return 0


@contextlib.contextmanager
def running(options: Options, interrupted: threading.Event | None = None) -> Iterator[Stack]:
    """A stack that is ready inside the block and gone after it. Raises StackError if it cannot start.

    Ray's logs are deleted if they lie outside the home, except after an error.
    """
    interrupted = interrupted or threading.Event()
    with home.locked(options.home), contextlib.ExitStack() as cleanup:
        home.check_restored(options.home)
        stack = Stack(options)
        cleanup.callback(stack.stop)
        stack.start(interrupted)
        yield stack
        cleanup.close()
        remove(stack.home)


class Stack:
    """The three children. Call `start`, `watch` and `stop`, in this order."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.home = options.home.absolute()
        self._children = Children(self.home)
        caller = components.read_caller(os.environ, options.host)
        self._forwarded, self.ignored, self.missing = caller.forwarded, caller.ignored, caller.missing
        self._reported: set[str] = set()
        self._checks_at = 0.0  # for lost processes, while it starts; in seconds of the monotonic clock
        self._restartable = {
            "ray"
        }  # once while the stack starts: on a busy machine its parts time out waiting for each other
        ports = Ports()
        service, mlflow, ray = (
            ports.take(option, given, host)
            for option, given, host in (
                ("port", options.port, options.host),
                ("mlflow-port", options.mlflow_port, LOOPBACK),
                ("ray-dashboard-port", options.ray_dashboard_port, LOOPBACK),
            )
        )
        self.ray_ports = {option: ports.free() for option in RAY_PORTS}
        ports.close()
        if options.data_root and not options.data_root.is_dir():
            raise StackOptionError(f"--data-root must be an existing folder (got {options.data_root})")
        data_root = options.data_root or self._forwarded.get("RUNG_DATA_ROOT") or self.home / "data"
        self.addresses = Addresses(
            pid=os.getpid(),
            service=f"http://{in_url(options.host)}:{service}",
            mlflow=f"http://{LOOPBACK}:{mlflow}",
            ray_dashboard=f"http://{LOOPBACK}:{ray}",
            data_root=str(Path(data_root).absolute()),
        )

    @property
    def mlflow_password(self) -> str:
        """The password of MLflow's user; empty with RUNG_AUTH=open."""
        return "" if self._forwarded.get(components.AUTH) == "open" else home.mlflow_password(self.home)

    @property
    def mlflow(self) -> str:
        """The URL of MLflow with the user and password, for the person who runs the stack and for MLflow's client."""
        if not self.mlflow_password:
            return self.addresses.mlflow
        return str(httpx.URL(self.addresses.mlflow, username=MLFLOW_USER, password=self.mlflow_password))

    def components(self) -> dict[str, Component]:
        """The three by name, in the order of their start."""
        options, at = self._options, self.addresses
        cpus = options.num_cpus or os.cpu_count() or 1
        common = components.common_environment(
            self.home, at, options.host, cpus, caller=os.environ, forwarded=self._forwarded
        )
        temporary = ray_folder(self.home)
        if (folder := temporary_folder(temporary)) is not None:
            common["TMPDIR"] = str(folder)
        parts = (
            components.ray(temporary, at, self.ray_ports, options.num_cpus, options.num_gpus, common),
            components.mlflow(at, common, self.mlflow_password),
            components.service(at, common, self.mlflow_password),
        )
        return {part.name: part for part in parts}

    def start(self, interrupted: threading.Event) -> None:
        """Start all three side by side and wait until each is ready."""
        home.check_no_misplaced(self.home)
        home.enable_wal(self.home / "mlflow.db")
        home.forget_mlflow_users(self.home)
        parts = self.components()
        for part in parts.values():
            self._children.spawn(part.name, part.command, part.environment)
        for part in parts.values():
            for check in part.checks:
                self._await(parts, part, check, interrupted)
        home.write_addresses(self.home, self.addresses)

    def watch(self, ended: threading.Event) -> None:
        """Return when `ended` is set. Raises StackError if a child exits before that."""
        while not ended.wait(CHECK_S):
            for name, status in self._children.exited():
                raise StackError(f"{name} exited with status {status}{self._children.tail(name)}")

    def stop(self) -> None:
        """End all children and their descendants, the drivers before the Ray that they use.

        A driver that sees Ray go down counts a restart of each of its trials; a driver that is killed counts none.
        For its experiment it is one lost attempt in any case: the next Ray does not know it.
        """
        home.remove_addresses(self.home)
        self._children.kill_descendants("ray", DRIVER)
        self._children.stop()

    def _await(
        self, parts: Mapping[str, Component], part: Component, check: Check, interrupted: threading.Event
    ) -> None:
        """Return when a check of a part passes. Raises StackError if a part exits or makes no progress."""
        answer, cause, began = "none", None, time.monotonic()
        patience = Patience(lambda: self._children.activity(part.name))
        while True:
            self._restart_ended(parts)
            if interrupted.is_set():
                raise StackError("interrupted while starting")
            try:
                headers = {"Authorization": f"Bearer {token}"} if (token := check.token()) else {}
                response = httpx.get(check.url, headers=headers, timeout=ANSWER_S, trust_env=False, verify=False)
                if check.is_ready(response):
                    return
                answer, cause = f"{response.status_code} {response.text[:300]}", check.cause(response)
            except httpx.HTTPError as error:
                answer, cause = repr(error), None
            if (why := patience.exhausted(TIME.sub("", answer))) is not None:
                name = cause or part.name
                tail = self._children.tail(name, parts[name].inner_log())
                raise StackError(f"{name} is not ready, {why}; last answer of {part.name}: {answer}{tail}")
            if time.monotonic() - began > REPORT_S and part.name not in self._reported:
                self._reported.add(part.name)
                print(f"rung up: still waiting for {part.name}; is the machine busy?", file=sys.stderr, flush=True)
            interrupted.wait(POLL_S)

    def _restart_ended(self, parts: Mapping[str, Component]) -> None:
        for name, why in [*self._exited(), *self._broken(parts)]:
            tail = self._children.tail(name, parts[name].inner_log())
            if name not in self._restartable:
                raise StackError(f"{name} {why}{tail}")
            self._restartable.remove(name)
            print(
                f"rung up: {name} {why} while it started; starting it again{tail}",
                file=sys.stderr,
                flush=True,
            )
            self._children.spawn(name, parts[name].command, parts[name].environment, again=True)

    def _exited(self) -> Iterator[tuple[str, str]]:
        for name, status in self._children.exited():
            yield name, f"exited with status {status}"

    def _broken(self, parts: Mapping[str, Component]) -> Iterator[tuple[str, str]]:
        """Parts that run, but without a process that they need."""
        if time.monotonic() < self._checks_at:
            return
        self._checks_at = time.monotonic() + LOST_CHECK_S
        exited = {name for name, _ in self._children.exited()}
        for part in parts.values():
            if part.vital and part.name not in exited and (program := self._children.lost(part.name, part.vital)):
                yield part.name, f"lost its process {program}"


def _report_ignored(settings: tuple[str, ...], certificates: tuple[str, ...]) -> None:
    lines = []
    if settings:
        lines.append(
            f"ignoring {', '.join(settings)}: `rung up` sets them itself or has an option for them. To use your own "
            "database, Ray or MLflow, run `python -m service.app` (docs/operating.md)."
        )
    if certificates:
        lines.append(f"ignoring {', '.join(certificates)}: there is no such file or folder.")
    for line in lines:
        print(f"rung up: {line}", file=sys.stderr, flush=True)
