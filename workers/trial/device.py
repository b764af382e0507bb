"""Device: where a trial is computed, and how much of it is the trial's.

Owns the way from what a process holds of the cluster to torch's name for it. It must not know what is computed.
Torch is imported where it is needed, so that the driver may import this module quickly.
"""

from __future__ import annotations

import platform
from typing import Any

from search_spaces.experiment import TrialSpec


class DeviceError(Exception):
    """A process holds GPUs that torch cannot use. Trying again there is of no use."""


def select_device(spec: TrialSpec) -> str:
    """Torch's name of the device of this process; of a share of a GPU no more memory than the share can be taken.

    Raises DeviceError: a trial that trained on the CPU instead would hold the GPU, and tell nobody.
    """
    import torch

    if spec.gpus == 0:
        return "cpu"
    try:
        init: Any = torch.cuda.init  # untyped
        init()
    except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without CUDA
        why = str(error).partition("\n")[0]
        raise DeviceError(
            f"no usable CUDA device on node {platform.node()} though it holds {spec.gpus:g} GPUs: {why}"
        ) from error
    if spec.gpus < 1:
        torch.cuda.set_per_process_memory_fraction(spec.gpus)
    return "cuda"
