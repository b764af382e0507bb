"""Optimizer steps against their published formulas, computed here in float64 numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces.optimizers import SGD, Adam, Optimizer, OptimizerSpec
from tests.support.families import kinds
from workers.targets import resolve_target
from workers.training.build import build_optimizer

STEPS = 12
START = np.array([[1.0, -2.0, 0.5], [3.0, -0.25, 4.0]])
Path = Callable[[Callable[[np.ndarray], np.ndarray], dict[str, Any]], Iterator[np.ndarray]]


def slope(theta: np.ndarray) -> np.ndarray:
    """The gradient of a badly conditioned quadratic with a small sine wave."""
    scale = np.array([[1.0, 10.0, 0.3], [2.0, 0.1, 5.0]])
    return scale * theta + 0.5 * np.cos(3 * theta)


def walk(spec: OptimizerSpec, steps: int = STEPS) -> np.ndarray:
    """The weights after each step of the optimizer, in float64."""
    layer = nn.Linear(3, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(START))
    optimizer, path = build_optimizer(spec, layer), []
    for _ in range(steps):
        layer.weight.grad = torch.from_numpy(slope(layer.weight.detach().numpy().copy()))
        optimizer.step()
        path.append(layer.weight.detach().numpy().copy())
    return np.stack(path)


def sgd(theta: np.ndarray, lr: float, momentum: float, nesterov: bool, weight_decay: float) -> Iterator[np.ndarray]:
    v = np.zeros_like(theta)
    for _ in range(STEPS):
        g = slope(theta) + weight_decay * theta
        v = momentum * v + g
        theta = theta - lr * (g + momentum * v if nesterov else v)
        yield theta


def rmsprop(
    theta: np.ndarray, lr: float, alpha: float, eps: float, momentum: float, centered: bool, weight_decay: float
) -> Iterator[np.ndarray]:
    s, mean, v = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)
    for _ in range(STEPS):
        g = slope(theta) + weight_decay * theta
        s = alpha * s + (1 - alpha) * g**2
        mean = alpha * mean + (1 - alpha) * g
        v = momentum * v + g / (np.sqrt(s - mean**2 if centered else s) + eps)
        theta = theta - lr * v
        yield theta


def adam(
    theta: np.ndarray,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    amsgrad: bool,
    weight_decay: float,
    decoupled: bool = False,
) -> Iterator[np.ndarray]:
    m, s, largest = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)
    for t in range(1, STEPS + 1):
        g = slope(theta) + (0 if decoupled else weight_decay * theta)
        theta = theta * (1 - lr * weight_decay) if decoupled else theta
        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * g**2
        largest = np.maximum(largest, s)
        root = np.sqrt((largest if amsgrad else s) / (1 - beta2**t))
        theta = theta - lr * (m / (1 - beta1**t)) / (root + eps)
        yield theta


def nadam(
    theta: np.ndarray, lr: float, beta1: float, beta2: float, eps: float, momentum_decay: float, weight_decay: float
) -> Iterator[np.ndarray]:
    m, s, product = np.zeros_like(theta), np.zeros_like(theta), 1.0
    for t in range(1, STEPS + 1):
        g = slope(theta) + weight_decay * theta
        now = beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
        then = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
        product *= now
        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * g**2
        ahead = then * m / (1 - product * then) + (1 - now) * g / (1 - product)
        theta = theta - lr * ahead / (np.sqrt(s / (1 - beta2**t)) + eps)
        yield theta


def radam(
    theta: np.ndarray, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float
) -> Iterator[np.ndarray]:
    m, s, limit = np.zeros_like(theta), np.zeros_like(theta), 2 / (1 - beta2) - 1
    for t in range(1, STEPS + 1):
        g = slope(theta) + weight_decay * theta
        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * g**2
        length = limit - 2 * t * beta2**t / (1 - beta2**t)
        step = m / (1 - beta1**t)
        if length > 5:
            rectified = math.sqrt((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length))
            step = step * rectified * math.sqrt(1 - beta2**t) / (np.sqrt(s) + eps)
        theta = theta - lr * step
        yield theta


def adamax(
    theta: np.ndarray, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float
) -> Iterator[np.ndarray]:
    m, u = np.zeros_like(theta), np.zeros_like(theta)
    for t in range(1, STEPS + 1):
        g = slope(theta) + weight_decay * theta
        m = beta1 * m + (1 - beta1) * g
        u = np.maximum(beta2 * u, np.abs(g) + eps)
        theta = theta - lr / (1 - beta1**t) * m / u
        yield theta


def adagrad(theta: np.ndarray, lr: float, lr_decay: float, eps: float, weight_decay: float) -> Iterator[np.ndarray]:
    total = np.zeros_like(theta)
    for t in range(STEPS):
        g = slope(theta) + weight_decay * theta
        total = total + g**2
        theta = theta - lr / (1 + t * lr_decay) * g / (np.sqrt(total) + eps)
        yield theta


def adadelta(theta: np.ndarray, lr: float, rho: float, eps: float, weight_decay: float) -> Iterator[np.ndarray]:
    squares, steps = np.zeros_like(theta), np.zeros_like(theta)
    for _ in range(STEPS):
        g = slope(theta) + weight_decay * theta
        squares = rho * squares + (1 - rho) * g**2
        step = np.sqrt(steps + eps) / np.sqrt(squares + eps) * g
        steps = rho * steps + (1 - rho) * step**2
        theta = theta - lr * step
        yield theta


def adafactor(
    theta: np.ndarray, lr: float, beta2_decay: float, clip_threshold: float, weight_decay: float
) -> Iterator[np.ndarray]:
    rows, columns = np.zeros((2, 1)), np.zeros((1, 3))
    smallest = np.finfo(np.float64).eps
    for t in range(1, STEPS + 1):
        g = slope(theta)
        kept = 1 - t**beta2_decay
        size = max(1e-3, math.sqrt(np.mean(theta**2))) * min(lr, 1 / math.sqrt(t))
        theta = theta * (1 - lr * weight_decay)
        rows = kept * rows + (1 - kept) * np.mean(g**2, axis=1, keepdims=True)
        columns = kept * columns + (1 - kept) * np.mean(g**2, axis=0, keepdims=True)
        moment = rows * columns / np.maximum(rows.mean(), smallest)
        step = g / np.sqrt(np.maximum(moment, smallest**2))
        step = step / max(1.0, math.sqrt(np.mean(step**2)) / clip_threshold)
        theta = theta - size * step
        yield theta


def asgd(theta: np.ndarray, lr: float, lambd: float, alpha: float, weight_decay: float) -> Iterator[np.ndarray]:
    rate = lr
    for t in range(1, STEPS + 1):
        g = slope(theta) + weight_decay * theta
        theta = theta * (1 - lambd * rate) - rate * g
        rate = lr / (1 + lambd * lr * t) ** alpha
        yield theta


def rprop(theta: np.ndarray, lr: float, weight_decay: float) -> Iterator[np.ndarray]:
    assert weight_decay == 0
    before, size = np.zeros_like(theta), np.full_like(theta, lr)
    for _ in range(STEPS):
        g = slope(theta)
        agreement = np.sign(g * before)
        size = np.clip(size * np.where(agreement > 0, 1.2, np.where(agreement < 0, 0.5, 1.0)), 1e-6, 50)
        g = np.where(agreement < 0, 0.0, g)
        theta = theta - size * np.sign(g)
        before = g
        yield theta


FORMULAS: dict[str, Callable[..., Iterator[np.ndarray]]] = {
    "sgd": sgd,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": lambda theta, **values: adam(theta, **values, decoupled=True),
    "nadam": nadam,
    "radam": radam,
    "adamax": adamax,
    "adagrad": adagrad,
    "adadelta": adadelta,
    "adafactor": adafactor,
    "asgd": asgd,
    "rprop": rprop,
}

CASES: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in kinds(Optimizer)),
    *((kind, {"weight_decay": 0.1}) for kind in kinds(Optimizer) if kind != "rprop"),
    ("sgd", {"momentum": 0.0, "nesterov": False}),
    ("sgd", {"momentum": 0.8, "nesterov": False}),
    ("rmsprop", {"momentum": 0.5, "centered": True, "alpha": 0.9}),
    ("adam", {"amsgrad": True, "beta2": 0.5}),
    ("adamw", {"amsgrad": True, "beta2": 0.5}),
    ("radam", {"beta2": 0.9}),
    ("adagrad", {"lr_decay": 0.1}),
    ("adafactor", {"lr": 0.5, "clip_threshold": 2.0}),
]


@pytest.mark.parametrize(("kind", "values"), CASES, ids=str)
def test_every_optimizer_follows_its_formula(kind: str, values: dict[str, Any]) -> None:
    spec = kinds(Optimizer)[kind](**values)
    assert isinstance(spec, OptimizerSpec)
    expected = np.stack(list(FORMULAS[kind](START, **spec.model_dump(exclude={"kind", "decay_all"}))))
    precision = 1e-6 if kind == "asgd" else 1e-9  # torch keeps ASGD's rate in float32
    np.testing.assert_allclose(walk(spec), expected, rtol=precision, atol=1e-12)


def test_every_torch_optimizer_has_a_spec_except_three() -> None:
    """LBFGS needs a closure, SparseAdam takes sparse gradients only, and Muon optimizes matrices only."""
    stock = {name for name, thing in vars(torch.optim).items() if isinstance(thing, type) and name != "Optimizer"}
    ours = {cls.target.partition(":")[2] for cls in kinds(Optimizer).values() if issubclass(cls, OptimizerSpec)}
    assert stock - ours == {"LBFGS", "SparseAdam", "Muon"}


def test_adam_follows_the_five_lines_of_the_course() -> None:
    m = 0.9 * 0 + 0.1 * slope(START)
    v = 0.999 * 0 + 0.001 * slope(START) ** 2
    m_hat = m / (1 - 0.9)
    v_hat = v / (1 - 0.999)
    theta = START - 3e-4 * m_hat / (np.sqrt(v_hat) + 1e-8)
    np.testing.assert_allclose(walk(Adam(), steps=1)[0], theta, rtol=1e-12)


def course_momentum(rates: list[float]) -> np.ndarray:
    """Momentum in the form of the course, v = 0.9 v - rate * gradient, which has the rate inside the velocity."""
    theta, v, path = START, np.zeros_like(START), []
    for rate in rates:
        v = 0.9 * v - rate * slope(theta)
        theta = theta + v
        path.append(theta)
    return np.stack(path)


def test_momentum_equals_the_courses_form_at_a_constant_rate() -> None:
    spec = SGD(lr=0.01, momentum=0.9, nesterov=False)
    np.testing.assert_allclose(walk(spec), course_momentum([0.01] * STEPS), rtol=1e-9)


def test_momentum_differs_from_the_courses_form_after_the_rate_changes() -> None:
    theta = torch.nn.Parameter(torch.from_numpy(START.copy()))
    optimizer = torch.optim.SGD([theta], lr=0.01, momentum=0.9)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 0.01 if step < 6 else 0.001
        theta.grad = torch.from_numpy(slope(theta.detach().numpy().copy()))
        optimizer.step()
    other = course_momentum([0.01] * 6 + [0.001] * 6)[-1]
    assert np.abs(theta.detach().numpy() - other).max() > 1e-3


@pytest.mark.parametrize("kind", kinds(Optimizer))
def test_every_member_names_a_torch_optimizer_and_builds(kind: str) -> None:
    spec = kinds(Optimizer)[kind]()
    assert isinstance(spec, OptimizerSpec)
    built = build_optimizer(spec, nn.Linear(2, 2))
    assert type(built) is resolve_target(spec.target)
    assert {group["lr"] for group in built.param_groups} == {spec.lr}


def test_weight_decay_spares_biases_and_normalization_unless_decay_all_is_set() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LayerNorm([2, 2]), nn.Flatten(), nn.Linear(8, 2))
    groups = build_optimizer(SGD(weight_decay=0.1), model).param_groups
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    assert decayed == {id(model[0].weight), id(model[4].weight)}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    everything = build_optimizer(SGD(weight_decay=0.1, decay_all=True), model).param_groups
    assert [group["weight_decay"] for group in everything] == [0.1]
