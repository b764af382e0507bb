"""Shared memory: that of a device which several trials use at once, each with a share of it.

Owns the cap on what the process of a trial takes of it, and how an error tells that the cap was reached. It must not
know what is computed. Torch is imported only where it is used, so that the driver can import this module quickly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol

#: What a process takes of a GPU beside torch's own memory, in bytes: the CUDA context with its kernels.
CONTEXT_BYTES = 600 * 2**20
#: A GPU without memory for what libraries take beside torch's allocator, which raises plain RuntimeErrors.
GPU_MEMORY = re.compile(r"CUDA (error: )?out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED")


class SharedMemory(Protocol):
    """The memory of the device on which a process trains; see `MemoryShare`."""

    def cap(self, share: float) -> None: ...

    def is_exceeded(self, error: BaseException) -> bool: ...


class GpuMemory:
    """That of the process's GPU."""

    def cap(self, share: float) -> None:
        import torch

        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction(torch_share(share, total))

    def is_exceeded(self, error: BaseException) -> bool:
        import torch

        if isinstance(error, torch.OutOfMemoryError):
            return True
        return isinstance(error, RuntimeError) and bool(GPU_MEMORY.search(str(error)))


@dataclass(frozen=True)
class MemoryShare:
    """The part of a memory that one process may use, above 0 and at most 1. All of it is not capped."""

    share: float
    memory: SharedMemory = field(default_factory=GpuMemory)

    def cap(self) -> None:
        """From now on, this process has no more. Call it once the process may use the device."""
        if self.share < 1:
            self.memory.cap(self.share)

    def is_exceeded(self, error: BaseException) -> bool:
        """Whether this process raised `error` because its part is not enough."""
        return self.share < 1 and self.memory.is_exceeded(error)


def torch_share(share: float, total_bytes: int) -> float:
    """The part of a GPU's memory for torch's allocator, in (0, 1]: the share of the process without its CUDA context,
    so that the processes of all shares fit together. At least half of the share."""
    if share >= 1:
        return 1.0
    return max(share / 2, share - CONTEXT_BYTES / total_bytes)
