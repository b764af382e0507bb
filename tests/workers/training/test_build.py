"""Targets that specs name, and models and optimizers built from specs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from search_spaces.optimizers import Optimizer
from search_spaces.schedulers import Scheduler
from search_spaces.spec import Spec, members
from workers.models.build import build_model
from workers.targets import resolve_target
from workers.training.build import build_optimizer


@pytest.mark.parametrize("family", [Optimizer, Scheduler])
def test_every_target_of_every_family_resolves(family: object) -> None:
    targets = [target for cls in members(family) if (target := getattr(cls, "target", None))]
    assert targets
    assert all(isinstance(resolve_target(target), type) for target in targets)


@pytest.mark.parametrize("target", ["torch.optim.SGD", "torch.optim:Sgd", "torch.optimum:SGD"])
def test_the_error_for_a_target_that_does_not_exist_contains_it(target: str) -> None:
    with pytest.raises(LookupError, match=target):
        resolve_target(target)


def test_the_error_for_a_spec_without_a_builder_lists_those_that_have_one() -> None:
    class Strange(Spec):
        pass

    normalization = members(Optimizer)[0]()
    with pytest.raises(ValueError, match=r"must be one of CNN, ResNet.* \(got Strange\)"):
        build_model(Strange(), normalization, 1, 2, 8)  # type: ignore[arg-type]


def test_frozen_parameters_are_not_optimized() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    optimizer = build_optimizer(members(Optimizer)[0](), model)  # type: ignore[arg-type]
    optimized = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(p) for p in optimized} == {id(p) for p in model[1].parameters()}
    assert isinstance(optimizer, torch.optim.SGD)
