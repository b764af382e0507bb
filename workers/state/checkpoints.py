"""Checkpoints: the artifacts of a trial that hold weights, and how long they are kept.

Owns their content's integrity, which of two is loaded, and which are deleted. `last.pt` is all that is needed to
resume after the newest epoch, `previous.pt` after the epoch before it; `best.pt` holds the weights of the best epoch.
It must not know what a checkpoint means to a training. Torch is imported only where it is used, so that the driver can
import this module quickly.
"""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import PurePath
from typing import Any

from search_spaces.checkpoint_policy import CheckpointPolicy, kept_checkpoints
from search_spaces.layout import BEST, LAST, NAMES, PREVIOUS, TrialFolder
from search_spaces.storage.base import UNUSABLE_ERRNOS, ArtifactStore

log = logging.getLogger(__name__)


class CheckpointDamagedError(Exception):
    """A checkpoint is not what was written. The message names the file and what is wrong with it."""


def encoded(state: dict[str, Any]) -> memoryview:
    """The content of a checkpoint; a later change of the tensors in `state` does not change it."""
    import torch

    content = io.BytesIO()  # torch reports a full disk as an error of its own writer, without the reason
    torch.save(state, content)
    return content.getbuffer()


def store_last(content: memoryview, artifacts: ArtifactStore, trial: TrialFolder, *, rotate: bool = True) -> None:
    """Store a checkpoint as `last.pt`; with `rotate`, what was there becomes `previous.pt`.

    Without it, what was there is overwritten: it was unusable. Raises OSError, and then the newest one stays.
    """
    if rotate:
        artifacts.rotate(trial.last, content, trial.previous)
    else:
        artifacts.write(trial.last, content)


def load(artifacts: ArtifactStore, name: PurePath) -> dict[str, Any]:
    """What was saved, on the CPU. Every byte is checked, which torch does not do.

    Raises CheckpointDamagedError, OSError.
    """
    import torch

    with artifacts.open_reader(name) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise CheckpointDamagedError(f"{name}: {damaged} is not what was written")
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
        except (CheckpointDamagedError, OSError, MemoryError):
            raise
        except Exception as error:  # torch raises many types for a damaged file, and does not say what is damaged
            raise CheckpointDamagedError(f"{name}: {error!r}") from error
    if not isinstance(state, dict):
        raise CheckpointDamagedError(f"{name}: must be a mapping (got {type(state).__name__})")
    return state


def load_newest(artifacts: ArtifactStore, trial: TrialFolder) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and content of the checkpoints to resume from, the newest first. Unreadable ones are logged.

    Raises OSError at the end if the storage could not be used for one of them: it may be readable later.
    """
    unusable: OSError | None = None
    for name in (trial.last, trial.previous):
        try:
            content = load(artifacts, name)
        except FileNotFoundError:
            continue
        except (CheckpointDamagedError, OSError) as error:
            log.warning("%s cannot be read: %s", name.name, error)
            if isinstance(error, OSError) and error.errno in UNUSABLE_ERRNOS:
                unusable = error
            continue
        yield name.name, content
    if unusable is not None:
        raise unusable


def prune(
    artifacts: ArtifactStore,
    ended: Iterable[int],
    best: Collection[int],
    policy: CheckpointPolicy,
    *,
    winner_registered: bool = False,
) -> None:
    """Delete what `policy` does not keep of the `ended` trials, and files of processes that were killed while writing.

    `best` are the trials one of which is the best, `winner_registered` whether its model is registered. Trials that
    have not ended are not touched. Calling it again changes nothing. Raises OSError.
    """
    for number in ended:
        kept = kept_checkpoints(policy, is_best=number in best, registered=winner_registered)
        for artifact in artifacts.list(NAMES.trial(number).root):
            name = artifact.name.name
            if name not in kept and (name.startswith((LAST, PREVIOUS, BEST)) or name.endswith(".part")):
                artifacts.remove(artifact.name)
