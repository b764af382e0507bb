"""Capped slots: processes that train trials on a CPU, each with a share of a memory, as on a GPU that trials share."""

from __future__ import annotations

import re
import resource
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.support.trial_slots import begun, timeless
from workers.failures.classification import Failure, TrialError
from workers.trial.worker import TrialWorker

#: Memory that the processes share, beside what each has before it trains.
SHARED_BYTES = 400 * 2**20


class DataSegment:
    """What a process may allocate from now on: Linux refuses more."""

    def cap(self, share: float) -> None:
        used = re.search(r"^VmData:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
        assert used is not None
        most = int(used[1]) * 1024 + int(share * SHARED_BYTES)
        resource.setrlimit(resource.RLIMIT_DATA, (most, resource.getrlimit(resource.RLIMIT_DATA)[1]))

    def is_exceeded(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


class CappedWorker(TrialWorker):
    memory = DataSegment()


def train(config: dict[str, Any], epochs: int) -> tuple[list[dict[str, Any]], Failure | None]:
    """The results of so many steps of a slot, without times; fewer, and why, if one fails."""
    slot, results = begun(config, CappedWorker), list[dict[str, Any]]()
    try:
        while len(results) < epochs:
            results.append(timeless(slot.step()))
    except TrialError as error:
        return results, error.failure
    finally:
        slot.cleanup()
    return results, None


def train_together(
    slots: list[tuple[dict[str, Any], int]],
) -> list[tuple[list[dict[str, Any]], Failure | None]]:
    """`train` in processes that run at the same time."""
    with ProcessPoolExecutor(len(slots), get_context("spawn")) as processes:
        return [one.result() for one in [processes.submit(train, *slot) for slot in slots]]
