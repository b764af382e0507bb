"""Random streams: the generators that a trial's augmentations draw from.

Each (trial seed, epoch, purpose) has its own generator, so the draws of one purpose do not depend on those of another:
a new augmentation changes no recorded trial that does not use it, and the draws of an epoch need no saved state. It
must not know what is drawn.
"""

from __future__ import annotations

import hashlib

import torch


def random_stream(seed: int, epoch: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device`.

    Two triples share a stream with a probability of 2^-32: torch's CPU generator uses the lowest 32 bits of a seed.
    """
    digest = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
