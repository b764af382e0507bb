"""Build: makes the torch optimizer of a spec.

Specs of optimizers name their torch class, so that a new torch optimizer needs no code here. It must not know data,
schedules, Ray or MLflow.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from torch.optim import Optimizer

from search_spaces.optimizers import OptimizerSpec
from workers.targets import resolve_target

NORMALIZATIONS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)


def build_optimizer(spec: OptimizerSpec, model: nn.Module) -> Optimizer:
    """The optimizer of `spec` over all trainable parameters, with torch's fused kernels where there are any.

    Unless `decay_all` is set, biases and normalization parameters form a second group without weight decay. Call this
    after the model was moved to its device.
    """
    target = resolve_target(spec.target)
    arguments = spec.arguments()
    decay = arguments.get("weight_decay", 0.0)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    exempt = set() if spec.decay_all or decay == 0 else _exempt(model)
    groups: list[dict[str, Any]] = [{"params": [p for p in parameters if id(p) not in exempt]}]
    if exempt:
        groups.append({"params": [p for p in parameters if id(p) in exempt], "weight_decay": 0.0})
    optimizer = target(groups, **arguments, **_fastest(target, parameters[0].device.type))
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{spec.target} must be a torch optimizer (got {type(optimizer).__name__})")
    return optimizer


def _exempt(model: nn.Module) -> set[int]:
    """The ids of parameters without weight decay."""
    exempt = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, NORMALIZATIONS) or name.endswith("bias") or parameter.ndim < 2:
                exempt.add(id(parameter))
    return exempt


def _fastest(target: Any, device: str) -> dict[str, bool]:
    """The arguments that select the fastest kernels of an optimizer."""
    accepted = inspect.signature(target).parameters
    if "fused" in accepted and not (device == "cuda" and target.__name__ == "Adagrad"):  # no fused Adagrad on CUDA
        return {"fused": True}
    # ASGD counts its steps on the device, and reads the count back at each step unless it is capturable.
    capturable = {"capturable": True} if device == "cuda" and target.__name__ == "ASGD" else {}
    return {"foreach": True, **capturable} if "foreach" in accepted else {}
