"""Compiled: compiles each structure of a network once in a process, so that later trials use it again.

Dynamo stores its compiled code with the code of `forward`, which all structures of a kind share. After
`recompile_limit` entries it silently stops compiling. Here the limit grows with the number of structures, and all
compiled code is dropped when there are too many. It must not know specs, data or Ray.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

ENTRIES_PER_STRUCTURE = 8  # torch's default limit: training, evaluation, the last short batch, dynamic sizes
MAX_STRUCTURES = 64  # kept at a time: every call checks the guards of all of them

Network = Callable[[Tensor], Tensor]


class Compiler:
    """The compiler of a process. `backend` is a backend of torch.compile."""

    def __init__(self, backend: str | Callable[..., Any] = "inductor") -> None:
        self._backend = backend
        self._structures: set[str] = set()

    def __call__(self, model: nn.Module, structure: str) -> Network:
        """The compiled model. Models of equal `structure` must have equal graphs; their weights may differ."""
        if structure not in self._structures and len(self._structures) >= MAX_STRUCTURES:
            torch._dynamo.reset()
            self._structures.clear()
        self._structures.add(structure)
        config: Any = torch._dynamo.config
        entries = ENTRIES_PER_STRUCTURE * (len(self._structures) + 1)
        config.recompile_limit = max(config.recompile_limit, entries)
        config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, entries)
        compiled: Network = torch.compile(model, backend=self._backend)
        return compiled
