"""Outcomes: which validation images the best epoch of a trial got right, and its loss there.

Owns the file that keeps them, a bit for each image. It is no part of a checkpoint, because checkpoints of ended trials
are deleted, nor of the journal, which every attempt reads as a whole. It must not know what is concluded from them.
"""

from __future__ import annotations

import base64
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from search_spaces.layout import TrialFolder
from search_spaces.storage.base import ArtifactStore, read_document

VERSION = 1  # of the file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidationOutcomes:
    """`epoch` counts from 1; `loss` may be infinite; `right` is in the order of the validation images."""

    epoch: int
    loss: float
    right: Sequence[bool]

    def encode(self) -> bytes:
        """The file's content: JSON, with the bits as base64, the first image in the highest bit of the first byte."""
        bits = "".join("1" if one else "0" for one in self.right)
        size = math.ceil(len(bits) / 8)
        packed = int(bits.ljust(8 * size, "0") or "0", 2).to_bytes(size, "big")
        return json.dumps(
            {
                "version": VERSION,
                "epoch": self.epoch,
                "loss": self.loss if math.isfinite(self.loss) else None,
                "images": len(self.right),
                "right": base64.b64encode(packed).decode(),
            }
        ).encode()


def load_outcomes(artifacts: ArtifactStore, trial: TrialFolder, epoch: int) -> ValidationOutcomes | None:
    """The outcomes of the best `epoch` of a trial. None where there is no file, as in version 0.1, or none of this
    epoch, and for a file that cannot be read, which is logged."""
    try:
        stored = json.loads(read_document(artifacts, trial.validation))
        if stored["version"] > VERSION or stored["epoch"] != epoch:
            return None
        packed, images = base64.b64decode(stored["right"], validate=True), stored["images"]
        if len(packed) != math.ceil(images / 8):
            raise ValueError(f"must have {math.ceil(images / 8)} bytes for {images} images (got {len(packed)})")
        bits = f"{int.from_bytes(packed, 'big'):0{8 * len(packed)}b}" if packed else ""
        loss = math.inf if stored["loss"] is None else float(stored["loss"])
        return ValidationOutcomes(epoch, loss, [bit == "1" for bit in bits[:images]])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        log.warning("%s cannot be used: %r", trial.validation, error)
        return None
