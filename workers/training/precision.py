"""ComputeMode: how a trial's numbers are computed and drawn on its device.

Owns precision, exactness, determinism and torch's global generators. All of them are switches of the process:
they are set for a block and put back after it, so that another trial of the process meets none of them. It must
not know models, data or the loop.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from search_spaces.experiment import Execution

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ComputeMode:
    """That of one trial on one device. `precision` is float32 on a CPU, whatever is asked for."""

    def __init__(self, execution: Execution, device: torch.device) -> None:
        self.precision = _precision(execution, device)
        self._device = device
        self._on_gpu = device.type == "cuda"
        self._deterministic = execution.deterministic

    def autocast(self) -> AbstractContextManager[Any]:
        """For the forward pass: half precision where it is wanted."""
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self.precision)

    def scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler, at work for float16 alone: bfloat16 reaches as far as float32 does."""
        return torch.amp.GradScaler(self._device.type, enabled=self.precision == torch.float16)

    @contextmanager
    def algorithms(self) -> Iterator[None]:
        """On a GPU: deterministic algorithms where the spec asks for them, the fastest convolutions otherwise.

        Float32 is exact: TensorFloat-32, torch's default for convolutions, keeps 10 of its 23 bits.
        """
        if not self._on_gpu:
            yield
            return
        wanted = self._deterministic
        if wanted:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses to be deterministic without
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        before = torch.are_deterministic_algorithms_enabled(), cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
        torch.use_deterministic_algorithms(wanted)
        cudnn.benchmark = not wanted
        if self.precision == torch.float32:
            cudnn.allow_tf32 = matmul.allow_tf32 = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0])
            cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before[1:]

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Torch's global generators seeded for what draws from them, and put back afterwards."""
        with torch.random.fork_rng([self._device] if self._on_gpu else [], device_type="cuda"):
            torch.default_generator.manual_seed(seed % 2**63)
            if self._on_gpu:
                with torch.cuda.device(self._device):
                    torch.cuda.manual_seed(seed % 2**63)
            yield


def _precision(execution: Execution, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the GPU computes it itself; older ones only imitate it, slowly."""
    if device.type != "cuda":
        return torch.float32
    auto = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return PRECISIONS[auto if execution.precision == "auto" else execution.precision]
