"""Compiled: each structure of a network compiled once in a process, and used again by later trials.

Dynamo keeps what it compiled with the code of `forward`, which all structures of a kind share, and turns itself
off without a sign after `recompile_limit` entries. Here the limit grows with the structures met, and everything
is forgotten when they are too many to keep. It must not know specs, data or Ray.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

ENTRIES_PER_STRUCTURE = 8  # training, evaluation, the last short batch, sizes turned dynamic: what torch allows one
MOST_STRUCTURES = 64  # kept at a time: their guards are walked at every call

Network = Callable[[Tensor], Tensor]


class Compiler:
    """One for a process. `backend` is one of torch.compile's."""

    def __init__(self, backend: str | Callable[..., Any] = "inductor") -> None:
        self._backend = backend
        self._met: set[str] = set()

    def __call__(self, model: nn.Module, structure: str) -> Network:
        """The compiled model; equal `structure`s have equal graphs, whatever their weights."""
        if structure not in self._met and len(self._met) >= MOST_STRUCTURES:
            torch._dynamo.reset()
            self._met.clear()
        self._met.add(structure)
        config: Any = torch._dynamo.config
        entries = ENTRIES_PER_STRUCTURE * (len(self._met) + 1)
        config.recompile_limit = max(config.recompile_limit, entries)
        config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, entries)
        compiled: Network = torch.compile(model, backend=self._backend)
        return compiled
