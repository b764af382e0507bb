"""Probe: trains the largest configuration of a search on this machine, once and several times at once.

Owns the processes that train, and what is measured with them; `number` decides what follows. It must not know Ray or
the service.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.experiment import TrialSpec
from search_spaces.protocol import Packing, Speed
from search_spaces.tracebacks import own_line
from workers.failures.classification import LONGEST_REASON
from workers.packing import number

COMMAND = (sys.executable, "-m", "workers.packing.trainer")
#: For which each number of trials is measured.
MEASURED_S = 5.0
#: Until a process has loaded the data, and trained its first batches.
START_LIMIT_S = 600.0
#: For a measurement beyond its seconds: a batch that has begun is finished.
LATE_S = 120.0


class ProbeError(Exception):
    """A process that trained for the measurement failed. The message is for the user."""


@dataclass(frozen=True)
class Roots:
    """Where the data are."""

    data: Path
    cache: Path


def measure(
    spec: TrialSpec, roots: Roots, most: int, seconds: float = MEASURED_S, log: Callable[[str], None] = lambda _: None
) -> Packing:
    """How many trials like `spec` share the device that it names: at most `most`. Each number is measured for so many
    seconds. Raises ProbeError if it cannot be trained even once.
    """
    with ExitStack() as stack:
        first = stack.enter_context(_Trainer(spec, roots))
        trainers = [first]
        memory = first.answer(START_LIMIT_S)
        peak, total = int(memory["peak_bytes"]), int(memory["total_bytes"])
        fits = number.fitting(peak, total, most)
        log(f"a trial needs {peak / 1e6:,.0f} MB of {total / 1e6:,.0f} MB, so at most {fits} at once are measured")
        speeds: dict[int, float] = {}
        note = ""
        for count in number.to_measure(fits):
            try:
                _add(trainers, stack, count, spec, roots)
                speeds[count] = _together(trainers[:count], seconds)
            except ProbeError as error:
                if not speeds:
                    raise
                note = f"{count} at once failed: {error}"
                log(note)
                break
            log(f"{count} at once: {speeds[count]:,.0f} images/s together")
    return Packing(
        trials=number.fastest(speeds),
        peak_bytes=peak,
        total_bytes=total,
        speeds=[Speed(trials=count, images_per_second=speed) for count, speed in speeds.items()],
        note=note,
    )


def _add(trainers: list[_Trainer], stack: ExitStack, count: int, spec: TrialSpec, roots: Roots) -> None:
    """Start more, all at the same time, until there are `count`."""
    new = [stack.enter_context(_Trainer(spec, roots)) for _ in range(count - len(trainers))]
    for trainer in new:
        trainer.answer(START_LIMIT_S)
    trainers += new


def _together(trainers: Sequence[_Trainer], seconds: float) -> float:
    for trainer in trainers:
        trainer.ask(seconds)
    return sum(trainer.answer(seconds + LATE_S)["images"] for trainer in trainers)


class _Trainer:
    """A process of `workers.packing.trainer`, which ends with this context."""

    def __init__(self, spec: TrialSpec, roots: Roots) -> None:
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        where = {"data_root": str(roots.data), "cache_root": str(roots.cache)}
        self.ask(where | {"spec": spec.model_dump(mode="json")})

    def __enter__(self) -> _Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, what: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its answer says why

    def answer(self, limit_s: float) -> dict[str, float]:
        """Raises ProbeError if the process ends, or does not answer in time."""
        assert self._process.stdout is not None
        watchdog = threading.Timer(limit_s, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise ProbeError(self._end(limit_s))
        answer: dict[str, float] = json.loads(line)
        return answer

    def _end(self, limit_s: float) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        why = own_line(self._errors.read())[:LONGEST_REASON]
        return why or f"its process ended with status {status}, or took longer than {limit_s:.0f} s"
