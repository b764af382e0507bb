"""ComputeMode: how a trial computes on its device, and how it seeds torch's global generators.

Owns precision, exactness, determinism and the global generators. All of these are settings of the process: they are set
for a block and restored after it, so that they do not affect another trial in the process. It must not know models,
data or the loop.
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
    """The mode of one trial on one device. On a CPU `precision` is always float32."""

    def __init__(self, execution: Execution, device: torch.device) -> None:
        self.precision = _precision(execution, device)
        self._device = device
        self._on_gpu = device.type == "cuda"
        self._deterministic = execution.deterministic

    def autocast(self) -> AbstractContextManager[Any]:
        """A context for the forward pass: half precision, unless the precision is float32."""
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self.precision)

    def scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler. It is enabled for float16 only: bfloat16 has the range of float32."""
        return torch.amp.GradScaler(self._device.type, enabled=self.precision == torch.float16)

    @contextmanager
    def algorithms(self) -> Iterator[None]:
        """A context in which a GPU uses deterministic algorithms if the spec requires them, and otherwise the fastest.

        Float32 is exact in it: TensorFloat-32, torch's default for convolutions, keeps 10 of the fraction's 23 bits.
        """
        if not self._on_gpu:
            yield
            return
        if self._deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        before = torch.are_deterministic_algorithms_enabled(), cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
        torch.use_deterministic_algorithms(self._deterministic)
        cudnn.benchmark = not self._deterministic
        if self.precision == torch.float32:
            cudnn.allow_tf32 = matmul.allow_tf32 = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0])
            cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before[1:]

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """A context in which torch's global generators start from `seed`; they are restored after it."""
        with torch.random.fork_rng([self._device] if self._on_gpu else [], device_type="cuda"):
            torch.default_generator.manual_seed(seed % 2**63)
            if self._on_gpu:
                with torch.cuda.device(self._device):
                    torch.cuda.manual_seed(seed % 2**63)
            yield


def _precision(execution: Execution, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 if the GPU computes it, and otherwise float16: older GPUs emulate bfloat16 slowly."""
    if device.type != "cuda":
        return torch.float32
    auto = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return PRECISIONS[auto if execution.precision == "auto" else execution.precision]
