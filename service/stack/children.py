"""Children: the processes that one foreground process starts, watches and ends, together with their descendants.

Each child leads its own session and writes to its own log. It must not know what they do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from service.stack.patience import Activity

STOP_S = 15.0  # between SIGTERM and SIGKILL; Ray takes several seconds
KILL_S = 5.0  # a killed process ends at once, unless its disk hangs
PR_SET_PDEATHSIG = 1  # option of Linux's prctl: the signal that a process gets when its parent dies
TAIL_LINES = 15  # enough for a traceback's end in an error message


@dataclass
class Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path
    seen: set[str] = field(default_factory=set)  # programs that its descendants have run


class Children:
    """The child processes. Call `spawn` for each, `check` regularly, and `stop` at the end."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._all: list[Child] = []

    def spawn(self, name: str, command: list[str], environment: Mapping[str, str], *, again: bool = False) -> Child:
        """Start a process in the home folder. Its output goes to logs/<name>.log there.

        `again`: in place of the one of this name, which is ended with its descendants; its log stays.
        """
        log = self._home / "logs" / f"{name}.log"
        log.parent.mkdir(exist_ok=True)
        for before in [child for child in self._all if again and child.name == name]:
            _end_session(before.process.pid)
            before.process.wait()
            self._all.remove(before)
        with log.open("ab" if again else "wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=self._home,
                start_new_session=True,
                preexec_fn=_dies_with(os.getpid()),
            )
        child = Child(name, process, log)
        self._all.append(child)
        return child

    def exited(self) -> Iterator[tuple[str, int]]:
        """The name and the exit status of each child that has exited."""
        for child in self._all:
            status = child.process.poll()
            if status is not None:
                yield child.name, status

    def lost(self, name: str, programs: Collection[str]) -> str | None:
        """One of these programs that a descendant of a child has run and none runs now. It is looked for at each call,
        and never found on a system without /proc."""
        child = self._child(name)
        running = {_program(pid) for pid in descendants(child.process.pid)}
        child.seen |= running
        return next((one for one in programs if one in child.seen - running), None)

    def activity(self, name: str) -> Activity:
        """What a child and its descendants have done so far. Of its CPU time nothing on a system without /proc."""
        child = self._child(name)
        pids = [child.process.pid, *descendants(child.process.pid)]
        return Activity(sum(map(_cpu_s, pids)), frozenset(pids), child.log.stat().st_size)

    def tail(self, name: str, inner: Path | None = None) -> str:
        """The end of a child's log, and of a log that one of its descendants wrote, to append to a message."""
        text = ""
        for log in filter(None, (self._child(name).log, inner)):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
            text += "".join(f"\n  {log.stem}| {line}" for line in lines) + f"\n(full log: {log})"
        return text

    def kill_descendants(self, name: str, command: tuple[str, ...]) -> None:
        """Kill the descendants of a child whose arguments contain `command`, and wait until they have ended.

        Does nothing on a system without /proc.
        """
        for child in self._all:
            if child.name == name:
                for pid in descendants(child.process.pid):
                    _kill_if(pid, command)

    def stop(self) -> None:
        """End all children, the last one first, and their descendants."""
        for child in reversed(self._all):
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + STOP_S
        for child in self._all:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.1, deadline - time.monotonic()))
            _end_session(child.process.pid)
            child.process.wait()
        self._all.clear()

    def _child(self, name: str) -> Child:
        return next(child for child in self._all if child.name == name)


def descendants(ancestor: int) -> list[int]:
    """The processes that descend from `ancestor`, except those whose parent has ended."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    below: list[int] = []
    waiting = [ancestor]
    while waiting:
        direct = children.get(waiting.pop(), [])
        below += direct
        waiting += direct
    return below


def _program(pid: int) -> str:
    """The name of the file that a process runs; empty for one that has ended."""
    with contextlib.suppress(OSError):
        return os.path.basename(os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0]))
    return ""


def _cpu_s(pid: int) -> float:
    """CPU time of a process and of its children that have ended."""
    with contextlib.suppress(OSError):  # it has ended
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _kill_if(pid: int, command: tuple[str, ...]) -> None:
    with contextlib.suppress(OSError):  # it has ended
        process = os.pidfd_open(pid)  # from here on, the number cannot be reused for another process unnoticed
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"\0" + "\0".join(command).encode() + b"\0" in arguments:
                signal.pidfd_send_signal(process, signal.SIGKILL)
                select.select([process], [], [], KILL_S)
        finally:
            os.close(process)


def _dies_with(parent: int) -> Callable[[], None] | None:
    """What a child runs before its command, so that it gets a SIGTERM when `parent` is killed. None except on Linux.

    Linux sends the signal when the thread that started the child ends; here that is the main thread.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # loaded here: the new process must not import

    def bind() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)

    return bind


def _end_session(leader: int) -> None:
    """Kill the remaining processes of a child's session. Ray's daemons have their own process groups."""
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == leader and pid != leader:
                os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
