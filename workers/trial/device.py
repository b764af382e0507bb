"""Device: on which device a trial is trained, and how much of its memory the trial may use.

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


def select_device(spec: TrialSpec) -> str:
    """Torch's name of this process's device. With a share of a GPU, the process can use that share of its memory only.

    Raises DeviceError: a trial that silently trained on the CPU instead would hold the GPU.
    """
    import torch

    if spec.gpus == 0:
        return "cpu"
    try:
        init: Any = torch.cuda.init  # untyped
        init()
    except (RuntimeError, AssertionError) as error:  # AssertionError if torch was built without CUDA
        why = str(error).partition("\n")[0]
        from workers.nodes import this_node  # with Ray, without which `make gpu` trains

        node, name = this_node()
        raise DeviceError(
            f"node {name} has no usable CUDA device, though a process holds {counted(float(spec.gpus), 'GPU')} of it: "
            f"{why}",
            node,
        ) from error
    if spec.gpus < 1:
        torch.cuda.set_per_process_memory_fraction(spec.gpus)
    return "cuda"
