"""Checkpoints: the files of a trial that hold weights, and how long they are kept.

Owns their names, that each appears whole or not at all, the way back where one is damaged, and the policy
by which they go. `last.pt` is all that is needed to go on after the newest epoch, `previous.pt` after the one
before it, `best.pt` the best epoch and its weights. What a checkpoint means to a training is not known here,
and torch is imported where it is used alone, so that the driver may import this module quickly.
"""

from __future__ import annotations

import io
import logging
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from search_spaces.protocol import trial_folder
from search_spaces.storage.atomic import atomic_write

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"

Policy = Literal["best", "last", "none"]

log = logging.getLogger("rung.checkpoints")


class CheckpointDamagedError(Exception):
    """A checkpoint that is not what was written. The message names the file and what is wrong with it."""


def save(state: dict[str, Any], path: Path) -> None:
    """Write `state` to `path`, whole or not at all, so that it survives a power failure. Raises OSError."""
    import torch

    content = io.BytesIO()  # torch tells a full disk as an error of its own writer, without the reason
    torch.save(state, content)
    atomic_write(path, content.getbuffer())


def save_last(state: dict[str, Any], folder: Path, *, rotate: bool = True) -> None:
    """Save `state` as the newest; with `rotate`, what was the newest becomes the one before.

    Without it, what was the newest is overwritten: it was of no use. Raises OSError, and then changes nothing.
    """
    fresh = folder / f"{LAST}.{os.getpid()}"
    try:
        save(state, fresh)
        if rotate:
            with suppress(FileNotFoundError):
                (folder / LAST).replace(folder / PREVIOUS)
        fresh.replace(folder / LAST)  # killed before this line, the trial goes on from the epoch before
    finally:
        fresh.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """What was saved, on the CPU. Every byte is checked, which torch does not do.

    Raises CheckpointDamagedError, OSError.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
        if wrong is not None:
            raise CheckpointDamagedError(f"{path}: {wrong} is not what was written")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (CheckpointDamagedError, OSError, MemoryError):
        raise
    except Exception as error:  # torch raises much for a damaged file, and does not say what
        raise CheckpointDamagedError(f"{path}: {error!r}") from error
    if not isinstance(state, dict):
        raise CheckpointDamagedError(f"{path}: a mapping required, got {type(state).__name__}")
    return state


def load_newest(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and content of the checkpoints to go on from, the newest first. What cannot be read is named in the log."""
    for name in (LAST, PREVIOUS):
        if (folder / name).exists():
            try:
                content = load(folder / name)
            except (CheckpointDamagedError, OSError) as error:
                log.warning("%s cannot be read: %s", name, error)
                continue
            yield name, content


def prune(
    trials: Path, ended: Iterable[int], best: int | None, policy: Policy, *, winner_registered: bool = False
) -> None:
    """Delete what `policy` does not keep of the `ended` trials in the folder `trials`.

    "best" keeps `best.pt` of trial `best`; "last" also `last.pt` of all; "none" nothing once the winner is
    registered (`winner_registered`), and until then what "best" keeps. Trials that have not ended are not touched.
    Calling it again changes nothing. Raises OSError.
    """
    for number in ended:
        folder = trials / trial_folder(number)
        if not folder.is_dir():
            continue
        kept = {LAST} if policy == "last" else set()
        if number == best and not (policy == "none" and winner_registered):
            kept.add(BEST)
        for name in {LAST, PREVIOUS, BEST} - kept:
            (folder / name).unlink(missing_ok=True)
        for leftover in (*folder.glob("*.part"), *folder.glob(f"{LAST}.*")):  # of processes killed while they wrote
            leftover.unlink(missing_ok=True)
