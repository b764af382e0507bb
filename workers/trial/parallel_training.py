"""Parallel training: a trial that several processes of this node train together, as one `Training` would.

Owns these processes: how they are started and found to have failed, and that none is left. This process trains nothing
itself, so that one of them that is lost, or waits for a GPU for ever, never holds it up. An epoch that is interrupted
ends the processes at once; nothing is lost with them, because each epoch ends with its whole state here. It must not
know Ray, the storage or the journal.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from search_spaces.experiment import TrialSpec
from search_spaces.protocol import ErrorKind
from search_spaces.tracebacks import own_line
from workers.data.splits import Splits
from workers.failures.classification import Failure, TrialError
from workers.training.compiled import Compiler
from workers.training.loop import EpochInterruptedError, Training
from workers.trial.device import processes_of
from workers.trial.group_member import BATCH, FAILED, Begin

COMMAND = (sys.executable, "-m", "workers.trial.group_member")
#: The processes are on one node: they meet on its loopback interface, where nobody else can reach them.
ENVIRONMENT = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "PYTHONUNBUFFERED": "1"}
POLL_S = 0.2
#: After the first sign of a failure, how long the others have to tell theirs: the first sign may be a consequence.
MORE_S = 2.0
KEPT_LINES = 100  # of what a process prints, to tell how it ended
LONGEST_LINE = 2**16
END_LIMIT_S = 30.0  # for a process that was killed; one that waits for a broken device may never end


class ParallelTraining:
    """`size` processes, each on a GPU of its own if `device` is "cuda". The attributes are those of `Training`.

    The images are those of `splits`, which the processes load from `cache_root`. `interrupted` is called several times
    a second while something is waited for. `run_epoch` raises TrialError if a process fails; after that, and after an
    EpochInterruptedError, the object is of no more use.
    """

    def __init__(
        self,
        spec: TrialSpec,
        splits: Splits,
        data_root: Path,
        cache_root: Path,
        size: int,
        device: str = "cpu",
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.spec = spec
        self.epoch, self.batch = 0, 0
        self.best_value: float | None = None
        self.best_epoch = 0
        self.best_right: Tensor | None = None
        self.diverged = False
        self._interrupted = interrupted
        self._state: dict[str, Any] = {}
        self._folder = tempfile.mkdtemp(prefix="rung-group-")
        self._members: list[_Member] = []
        self._end = weakref.finalize(self, _end, self._members, self._folder)  # also when it is only dropped
        try:
            for rank in range(size):
                self._members.append(_Member(rank))
                begin = Begin(
                    spec=spec.model_dump_json(),
                    data_root=str(data_root),
                    cache_root=str(cache_root),
                    digests=splits.digests,
                    meeting_point=f"{self._folder}/meeting-point",
                    rank=rank,
                    size=size,
                    device=device,
                )
                self._members[rank].ask(begin)
            self.batches: int = self._answers()[0]
        except BaseException:
            self.close()
            raise

    def run_epoch(self) -> dict[str, float]:
        """See `Training.run_epoch`."""
        self.batch = 0
        self._ask("epoch")
        metrics, content = self._answers()[0]
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        self._take(found["state"])
        if self.best_epoch == self.epoch:
            self.best_right = found["right"]
        self.batch = self.batches
        measured: dict[str, float] = metrics
        return measured

    def weights(self) -> dict[str, Any]:
        """Those of the model after the newest epoch. Empty before the first one."""
        weights: dict[str, Any] = self._state.get("model", {})
        return weights

    def state_dict(self) -> dict[str, Any]:
        """See `Training.state_dict`; it is the same as that of one process. Empty before the first epoch."""
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state`, of any number of processes."""
        content = io.BytesIO()
        torch.save(state, content)
        self._ask("load", content.getvalue())
        self._answers()
        self._take(state)

    def close(self) -> None:
        """End the processes, whatever they do."""
        self._end()

    def _take(self, state: dict[str, Any]) -> None:
        self._state = state
        self.epoch, self.diverged = state["epoch"], state["diverged"]
        self.best_value, self.best_epoch = state["best_value"], state["best_epoch"]

    def _ask(self, *request: Any) -> None:
        for member in self._members:
            member.ask(request)

    def _answers(self) -> list[Any]:
        """What each process answers to the newest request. Raises TrialError, EpochInterruptedError."""
        answers: dict[int, Any] = {}
        try:
            while waiting := [member for member in self._members if member.rank not in answers]:
                if self._interrupted():
                    raise EpochInterruptedError
                for member in _ready(waiting, POLL_S):
                    kind, *values = member.answer()
                    if kind == FAILED:
                        raise _why(self._members)
                    if kind == BATCH:
                        self.batch = values[0]
                    else:
                        answers[member.rank] = values[0]
        except BaseException:
            self.close()
            raise
        return [answers[member.rank] for member in self._members]


AnyTraining = Training | ParallelTraining


def new_training(
    spec: TrialSpec,
    splits: Splits,
    data_root: Path,
    cache_root: Path,
    device: str,
    compiler: Compiler | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> AnyTraining:
    """The training of a trial, by this process or, with several GPUs, by one for each. Raises what either raises."""
    if (size := processes_of(spec)) > 1:
        return ParallelTraining(spec, splits, data_root, cache_root, size, device, interrupted)
    return Training(spec, splits, device, compiler, interrupted)


class _Member:
    """A process of `group_member`, and the connection to it.

    What the first one prints is printed here. The others print the same, which is dropped unless they failed.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.failure: Failure | None = None
        self.blames_others = False
        self._newest_lines = deque[str](maxlen=KEPT_LINES)
        self.connection, other = Pipe()
        with other:
            self._process = subprocess.Popen(
                (*COMMAND, str(other.fileno())),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=[other.fileno()],
                env=ENVIRONMENT | os.environ,
            )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def ask(self, request: Any) -> None:
        with suppress(OSError):  # its answer says why
            self.connection.send(request)

    def answer(self) -> tuple[Any, ...]:
        """What it has sent; of a process that has ended, that it failed."""
        found: tuple[Any, ...]
        try:
            found = self.connection.recv()
        except (EOFError, OSError):
            found = FAILED, Failure(ErrorKind.LOST, self._how_it_ended()), False
        if found[0] == FAILED:
            _, self.failure, self.blames_others = found
        return found

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """Wait for the end of a process that was killed."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_LIMIT_S)
        self._reading.join(MORE_S)
        self.connection.close()
        if self.rank and self.failure and not self.blames_others:
            print("".join(self._newest_lines), end="", file=sys.stderr)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            while line := lines.readline(LONGEST_LINE):
                self._newest_lines.append(line)
                if self.rank == 0:
                    print(line, end="", file=sys.stderr)

    def _how_it_ended(self) -> str:
        which = f"process {self.rank} of those that train the trial together"
        try:
            status = self._process.wait(MORE_S)
        except subprocess.TimeoutExpired:
            return f"{which} closed its connection"
        self._reading.join(MORE_S)
        if status < 0:
            return f"{which} was ended by signal {signal.Signals(-status).name}"
        last = own_line("".join(self._newest_lines))
        return f"{which} ended with status {status}" + (f": {last}" if last else "")


def _ready(members: Sequence[_Member], timeout_s: float) -> list[_Member]:
    ready = wait([member.connection for member in members], timeout_s)
    return [member for member in members if member.connection in ready]


def _why(members: Sequence[_Member]) -> TrialError:
    """Why a group has failed one of whose processes has: that one may only have missed another."""
    until = time.monotonic() + MORE_S
    while not (causes := [one.failure for one in members if one.failure and not one.blames_others]):
        silent = [one for one in members if not one.failure]
        if not silent or time.monotonic() >= until:
            failure = next(one.failure for one in members if one.failure)
            return TrialError(ErrorKind.LOST, f"the processes that train the trial lost each other: {failure.reason}")
        for one in _ready(silent, POLL_S):
            one.answer()
    return TrialError(causes[0].kind, causes[0].reason, causes[0].node)


def _end(members: Sequence[_Member], folder: str) -> None:
    for member in members:
        member.kill()
    for member in members:
        member.end()
    shutil.rmtree(folder, ignore_errors=True)
