"""Trainer: a process that trains one configuration for as long as it is asked to, for measurements.

`python -m workers.packing.trainer` reads a request as JSON from the first line of standard input, and answers with
`{"peak_bytes": ..., "total_bytes": ...}` once it has evaluated and trained some batches. For each further line, a
number of seconds, it trains for so long and answers with `{"images": ...}`, how many it trained on per second. It ends
with its input, whatever it does at that moment. It must not know Ray or how many others there are.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

import torch

from search_spaces.stored import read_trial_spec
from workers.data.splits import load
from workers.training.loop import EpochInterruptedError, Training
from workers.trial.device import select_device
from workers.trial.shared_memory import CONTEXT_BYTES

WARM_BATCHES = 8  # trained before the measurement: the first ones allocate memory and choose kernels
EVALUATED_IMAGES = 4096  # more than one batch of an evaluation
UNENDING = 1_000_000  # epochs of the schedule; the measurement ends before
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class _Trainer:
    def __init__(self, request: dict[str, Any]) -> None:
        spec = read_trial_spec(json.dumps(request["spec"]))
        torch.set_num_threads(spec.cpus)
        self._device = select_device(spec)
        splits = load(spec.dataset, spec.split_seed, Path(request["data_root"]), Path(request["cache_root"]))
        self._size = spec.hyperparameters.batch_size
        self._until, self._most, self._trained = 0.0, 0, 0
        self._training = Training(
            spec.model_copy(update={"max_epochs": UNENDING}), splits, self._device, interrupted=self._is_over
        )
        self._images, self._labels = splits.validation_images, splits.validation_labels

    def memory(self) -> dict[str, float]:
        """What one process needs at most, after an evaluation and some batches, and what the device has, in bytes.

        The end of an epoch, which has a copy of the weights from before its last step, is not reached.
        """
        self._until, self._most = float("inf"), sys.maxsize
        self._training.evaluate(self._images[:EVALUATED_IMAGES], self._labels[:EVALUATED_IMAGES])
        self._train(float("inf"), WARM_BATCHES)
        copy = sum(weight.nbytes for weight in self._training.model.parameters())
        if self._device == "cuda":
            total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
            peak = torch.cuda.max_memory_reserved() + CONTEXT_BYTES
        else:
            peak, total = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, memory_of_machine()
        return {"peak_bytes": peak + copy, "total_bytes": total}

    def images_per_second(self, seconds: float) -> float:
        """Trained on in about so many seconds, of which evaluations between epochs are a part."""
        started = time.perf_counter()
        self._train(started + seconds, sys.maxsize)
        return self._trained * self._size / (time.perf_counter() - started)

    def _train(self, until: float, most: int) -> None:
        self._until, self._most, self._trained = until, most, 0
        try:
            while True:
                self._training.run_epoch()
        except EpochInterruptedError:
            if self._device == "cuda":
                torch.cuda.synchronize()

    def _is_over(self) -> bool:
        over = self._trained >= self._most or time.perf_counter() >= self._until
        self._trained += self._training.model.training and not over
        return over


def memory_of_machine() -> int:
    """Bytes that processes here may use: of the machine, or of the control group if that is less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in LIMITS:
        try:
            found.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # there is none, or no limit
            continue
    return min(found)


def _answers(lines: Iterator[str]) -> Iterator[dict[str, float]]:
    """The answers to what is asked on each line."""
    trainer = _Trainer(json.loads(next(lines)))
    yield trainer.memory()
    for line in lines:
        yield {"images": trainer.images_per_second(float(line))}


def _lines(stream: TextIO) -> Iterator[str]:
    """The lines of a stream, at whose end the process ends, also while it trains."""
    read = SimpleQueue[str]()

    def follow() -> None:
        for line in stream:
            read.put(line)
        os._exit(0)

    threading.Thread(target=follow, daemon=True).start()
    while True:
        yield read.get()


if __name__ == "__main__":
    answered = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a plugin, or a program that it runs, prints is no answer
    for answer in _answers(_lines(sys.stdin)):
        print(json.dumps(answer), file=answered, flush=True)
