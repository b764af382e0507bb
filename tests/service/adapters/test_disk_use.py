"""Sizes of files are counted at most once a minute, and few counts are made at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.adapters.disk_use import KEPT_S, MAX_COUNTS, DiskUse
from service.adapters.experiment_files import FileKind
from service.contract.errors import UnavailableError
from tests.support.clock import Clock

PATIENCE_S = 20


class Files:
    """Stands for the files of an experiment. It counts how often they are walked through; a walk may have to wait."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.walks = 0
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.may_end.set()

    def sizes(self) -> dict[FileKind, int]:
        self.walks += 1
        self.begun.set()
        assert self.may_end.wait(PATIENCE_S)
        return {FileKind.LOGS: self.walks}


@pytest.fixture
def use(clock: Clock) -> DiskUse:
    return DiskUse(clock.monotonic)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def begin(pool: ThreadPoolExecutor, use: DiskUse, files: Any) -> None:
    """A count that does not end before `may_end` is set."""
    files.may_end.clear()
    files.begun.clear()
    pool.submit(use.sizes, files)
    assert files.begun.wait(PATIENCE_S)


def test_files_are_counted_once_a_minute(use: DiskUse, clock: Clock) -> None:
    files: Any = Files("one")
    assert [use.sizes(files)[FileKind.LOGS] for _ in range(10)] == [1] * 10
    clock.sleep(KEPT_S)
    assert [use.sizes(files)[FileKind.LOGS] for _ in range(10)] == [2] * 10


def test_nobody_waits_for_a_count_of_somebody_else(use: DiskUse, clock: Clock, pool: ThreadPoolExecutor) -> None:
    files: Any = Files("one")
    use.sizes(files)
    clock.sleep(KEPT_S)
    begin(pool, use, files)
    assert use.sizes(files) == {FileKind.LOGS: 1}, "the last count"
    files.may_end.set()


def test_few_counts_are_made_at_once(use: DiskUse, pool: ThreadPoolExecutor) -> None:
    slow: list[Any] = [Files(str(number)) for number in range(MAX_COUNTS)]
    for files in slow:
        begin(pool, use, files)
    another: Any = Files("another")
    with pytest.raises(UnavailableError, match="try again") as refused:
        use.sizes(another)
    assert refused.value.headers == {"Retry-After": "2"}
    assert another.walks == 0
    for files in slow:
        files.may_end.set()
    pool.shutdown()
    assert use.sizes(another) == {FileKind.LOGS: 1}
