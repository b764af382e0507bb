"""Group member: one of the processes that train a trial together.

`python -m workers.trial.group_member FD` reads requests from the connection FD, and answers each with (DONE, value) or
(FAILED, failure, whether another process may be the cause); the first process also reports its progress, (BATCH,
number). It ends with the connection, whatever it does at that moment. It must not know Ray, the storage or the journal.
"""

from __future__ import annotations

import io
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from torch import distributed

from search_spaces.datasets.base import DataError
from search_spaces.stored import read_trial_spec
from workers.data.splits import load
from workers.failures.classification import classify, text_of
from workers.training.group import Group
from workers.training.loop import Training

DONE, FAILED, BATCH = "done", "failed", "batch"
#: For one exchange between the processes. They are in step, apart from how fast each is.
EXCHANGE_LIMIT = timedelta(minutes=10)
PROGRESS_S = 1.0
#: In errors of an exchange with a process that is gone, which torch raises as plain RuntimeErrors.
EXCHANGE = re.compile(r"\bgloo\b|NCCL|ProcessGroup|process group|Connection (reset|closed) by peer|Broken pipe")


@dataclass(frozen=True)
class Begin:
    """The first request. `meeting_point`: a new file, by which the processes find each other. `digests` are those of
    the images that the others have. `device`: "cpu" or "cuda", of which each process takes the GPU of its rank."""

    spec: str
    data_root: str
    cache_root: str
    digests: dict[str, str]
    meeting_point: str
    rank: int
    size: int
    device: str


class Member:
    """A process of the group; each method is a request."""

    def __init__(self, begin: Begin, connection: Connection) -> None:
        spec = read_trial_spec(begin.spec)
        self._rank, self._connection = begin.rank, connection
        self._next_progress = time.monotonic() + PROGRESS_S
        torch.set_num_threads(max(1, spec.cpus // begin.size))
        device = torch.device("cuda", begin.rank) if begin.device == "cuda" else torch.device("cpu")
        splits = load(spec.dataset, spec.split_seed, Path(begin.data_root), Path(begin.cache_root), download=False)
        if splits.digests != begin.digests:
            raise DataError(f"{spec.dataset.name}: the images changed while the processes of the trial were started")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=f"file://{begin.meeting_point}",
            rank=begin.rank,
            world_size=begin.size,
            timeout=EXCHANGE_LIMIT,
        )
        group = Group(begin.rank, begin.size)
        self._training = Training(spec, splits, device, interrupted=self._between_batches, group=group)

    def batches(self) -> int:
        return self._training.batches

    def load(self, state: bytes) -> None:
        self._training.load_state_dict(torch.load(io.BytesIO(state), map_location="cpu", weights_only=True))

    def epoch(self) -> tuple[dict[str, float], bytes | None]:
        """The metrics of the next epoch, and the state after it; of the first process only."""
        metrics = self._training.run_epoch()
        return metrics, None if self._rank else self._state()

    def _state(self) -> bytes:
        content = io.BytesIO()
        torch.save({"state": self._training.state_dict(), "right": self._training.best_right}, content)
        return content.getvalue()

    def _between_batches(self) -> bool:
        """Stops nothing: who wants an epoch to end, ends the processes."""
        if not self._rank and time.monotonic() >= self._next_progress:
            self._next_progress = time.monotonic() + PROGRESS_S
            self._connection.send((BATCH, self._training.batch))
        return False


def is_exchange_error(error: BaseException) -> bool:
    """Whether an error is of an exchange between processes, of which another one may have ended."""
    is_raised_by_torch = isinstance(error, distributed.DistError | RuntimeError)
    return is_raised_by_torch and bool(EXCHANGE.search(f"{type(error).__name__} {text_of(error)}"))


def _requests(connection: Connection) -> Iterator[Any]:
    """What is asked, until the connection ends; then so does the process, also while it trains."""
    read = SimpleQueue[Any]()

    def follow() -> None:
        while True:
            try:
                read.put(connection.recv())
            except (EOFError, OSError):
                os._exit(0)

    threading.Thread(target=follow, daemon=True).start()
    while True:
        yield read.get()


def main(connection: Connection) -> None:
    requests = _requests(connection)
    try:
        member = Member(next(requests), connection)
        connection.send((DONE, member.batches()))
        for name, *arguments in requests:
            connection.send((DONE, getattr(member, name)(*arguments)))
    except (Exception, KeyboardInterrupt) as error:
        import traceback

        traceback.print_exc()
        connection.send((FAILED, classify(error), is_exchange_error(error)))
        threading.Event().wait()  # the others must not take the end of this process for the cause


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
