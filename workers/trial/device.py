"""Device: on which device a trial is trained.

Owns the way from the resources of a process to torch's name of the device. It must not know what is computed. Torch is
imported only where it is used, so that the driver can import this module quickly.
"""

from __future__ import annotations

from typing import Any

from search_spaces.experiment import TrialSpec
from search_spaces.phrases import counted
from workers.failures.classification import NodeError


class DeviceError(NodeError):
    """A process holds GPUs that torch cannot use. Retrying on that node does not help."""


def processes_of(spec: TrialSpec) -> int:
    """How many processes train the trial: one for each of its GPUs."""
    return max(1, int(spec.gpus))


def select_device(spec: TrialSpec) -> str:
    """Torch's name of this process's device; of several GPUs, that of all of them.

    Raises DeviceError: a trial that silently trained on the CPU instead would hold the GPU.
    """
    import torch

    if spec.gpus == 0:
        return "cpu"
    try:
        init: Any = torch.cuda.init  # untyped
        init()
        if (found := torch.cuda.device_count()) < spec.gpus:
            raise RuntimeError(f"torch finds {counted(found, 'GPU')}")
    except (RuntimeError, AssertionError) as error:  # AssertionError if torch was built without CUDA
        why = str(error).partition("\n")[0]
        from workers.nodes import this_node  # with Ray, without which `make gpu` trains

        node, name = this_node()
        raise DeviceError(
            f"node {name} has no usable CUDA device, though a process holds {counted(float(spec.gpus), 'GPU')} of it: "
            f"{why}",
            node,
        ) from error
    return "cuda"
