"""Every default of what may be searched, as a literal: those of the course's table, and what experiments rely on."""

from __future__ import annotations

from typing import Any

import pytest

from search_spaces.models import Model
from search_spaces.normalization import Normalization
from search_spaces.optimizers import Optimizer
from search_spaces.schedulers import Scheduler
from search_spaces.validation import validate
from tests.support.families import kinds

OURS = {"dropout": 0.0, "initialization": "kaiming"}
PLAIN = {"weight_decay": 0.0, "decay_all": False}
MOMENTS = {**PLAIN, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
START = {"warmup_epochs": 0.0}

DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "model": {
        "cnn": {**OURS, "width": 16, "depth": 2, "hidden": 0},
        "resnet": {**OURS, "width": 16, "depth": 9, "zero_init_residual": True},
        "vgg": {**OURS, "width": 32, "depth": 3, "hidden": 128},
        "torchvision": {"name": "resnet18"},
        "plugin": {"name": "mine", "arguments": {}},
    },
    "normalization": {
        "batch": {"eps": 1e-5, "momentum": 0.1},
        "layer": {"eps": 1e-5},
        "instance": {"eps": 1e-5},
        "group": {"eps": 1e-5, "groups": 8},
        "none": {"eps": 1e-5},
    },
    "optimizer": {
        "sgd": {**PLAIN, "lr": 0.1, "momentum": 0.9, "nesterov": True},
        "rmsprop": {**PLAIN, "lr": 1e-3, "alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "centered": False},
        "adam": {**MOMENTS, "lr": 3e-4, "amsgrad": False},
        "adamw": {**MOMENTS, "lr": 1e-3, "weight_decay": 0.01, "amsgrad": False},
        "nadam": {**MOMENTS, "lr": 2e-3, "momentum_decay": 4e-3},
        "radam": {**MOMENTS, "lr": 1e-3},
        "adamax": {**MOMENTS, "lr": 2e-3},
        "adagrad": {**PLAIN, "lr": 1e-2, "lr_decay": 0.0, "eps": 1e-10},
        "adadelta": {**PLAIN, "lr": 1.0, "rho": 0.9, "eps": 1e-6},
        "adafactor": {**PLAIN, "lr": 1e-2, "beta2_decay": -0.8, "clip_threshold": 1.0},
        "asgd": {**PLAIN, "lr": 1e-2, "lambd": 1e-4, "alpha": 0.75},
        "rprop": {**PLAIN, "lr": 1e-2},
    },
    "scheduler": {
        "constant": START,
        "plateau": {**START, "factor": 0.2, "patience": 2, "threshold": 1e-4, "min_lr": 0.0},
        "step": {**START, "step_size": 10, "gamma": 0.1},
        "multistep": {**START, "milestones": (0.5, 0.75), "gamma": 0.1},
        "exponential": {**START, "gamma": 0.9},
        "polynomial": {**START, "power": 1.0},
        "cosine": {**START, "t_max": None, "min_factor": 0.0},
        "warm_restarts": {
            **START,
            "t_0": None,
            "t_mult": 1.0,
            "cycle_warmup": 0.0,
            "peak_decay": 1.0,
            "min_factor": 0.0,
        },
        "triangular": {**START, "half_cycle_epochs": 2.0, "min_factor": 0.1, "halve": False},
        "one_cycle": {**START, "pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4},
    },
}


@pytest.mark.parametrize(
    ("family", "union"),
    [("model", Model), ("normalization", Normalization), ("optimizer", Optimizer), ("scheduler", Scheduler)],
)
def test_every_members_defaults(family: str, union: Any) -> None:
    found = {
        kind: cls.model_validate({"name": "mine"} if kind == "plugin" else {}).model_dump(exclude={"kind"})
        for kind, cls in kinds(union).items()
    }
    assert found == DEFAULTS[family]


def test_an_experiment_without_a_search_space_trains_what_the_course_recommends() -> None:
    assert validate({"name": "x"}).search_space.model_dump(exclude={"augmentation"}) == {
        "model": {"kind": "cnn", **DEFAULTS["model"]["cnn"]},
        "optimizer": {"kind": "adam", **DEFAULTS["optimizer"]["adam"]},
        "scheduler": {"kind": "plateau", **DEFAULTS["scheduler"]["plateau"]},
        "normalization": {"kind": "batch", **DEFAULTS["normalization"]["batch"]},
        "batch_size": 128,
        "input_normalization": True,
        "label_smoothing": 0.0,
        "gradient_clip_norm": 0.0,
        "class_weights": "none",
        "balanced_sampling": False,
    }
