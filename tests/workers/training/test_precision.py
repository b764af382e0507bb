"""Precision and determinism on a GPU, as switches that can be looked at without one; seeds, which are put back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
import torch

from search_spaces.experiment import Execution
from workers.training.precision import ComputeMode

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture(params=[True, False], ids=["computes bfloat16", "imitates bfloat16"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A GPU that computes bfloat16, or one that emulates it alone."""

    def supported(including_emulation: bool = True) -> bool:
        return request.param or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    return bool(request.param)


def switches() -> dict[str, bool]:
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tried": torch.backends.cudnn.benchmark,
        "tf32 convolutions": torch.backends.cudnn.allow_tf32,
        "tf32 products": torch.backends.cuda.matmul.allow_tf32,
    }


def switch(to: dict[str, bool]) -> None:
    torch.use_deterministic_algorithms(to["deterministic"])
    torch.backends.cudnn.benchmark = to["tried"]
    torch.backends.cudnn.allow_tf32 = to["tf32 convolutions"]
    torch.backends.cuda.matmul.allow_tf32 = to["tf32 products"]


@pytest.fixture(params=[False, True], ids=["torch's defaults", "their contrary"])
def before(request: pytest.FixtureRequest) -> Iterator[dict[str, bool]]:
    """What others of the process have set."""
    defaults = switches()
    switch({name: value != request.param for name, value in defaults.items()})
    yield switches()
    switch(defaults)


@pytest.mark.parametrize("asked", ["auto", "float32", "bfloat16", "float16"])
def test_precision_on_a_gpu_is_what_is_asked_for_and_autos_is_what_the_device_computes(
    asked: str, native: bool
) -> None:
    compute = ComputeMode(Execution(precision=asked), CUDA)
    wanted = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}.get(
        asked, torch.bfloat16 if native else torch.float16
    )
    assert compute.precision == wanted
    assert compute.scaler().is_enabled() == (wanted == torch.float16)
    with compute.autocast():
        assert torch.is_autocast_enabled("cuda") == (wanted != torch.float32)
        if wanted != torch.float32:
            assert torch.get_autocast_dtype("cuda") == wanted
    assert not torch.is_autocast_enabled("cuda")


@pytest.mark.parametrize("asked", ["auto", "float32", "bfloat16", "float16"])
def test_a_cpu_is_exact_and_its_switches_are_left_alone(asked: str) -> None:
    compute = ComputeMode(Execution(precision=asked, deterministic=True), CPU)
    assert compute.precision == torch.float32
    assert not compute.scaler().is_enabled()
    before = switches()
    with compute.algorithms(), compute.autocast():
        assert switches() == before
        assert not torch.is_autocast_enabled("cpu")


def interrupted(compute: ComputeMode) -> dict[str, bool]:
    """The switches within a block that ends by an exception."""
    found: dict[str, bool] = {}
    with contextlib.suppress(KeyError), compute.algorithms():
        found |= switches()
        raise KeyError
    return found


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_algorithms_are_those_asked_for_and_put_back_whatever_happens(
    precision: str, deterministic: bool, before: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    monkeypatch.setattr(os, "environ", environment)
    within = interrupted(ComputeMode(Execution(precision=precision, deterministic=deterministic), CUDA))
    exact = dict.fromkeys(("tf32 convolutions", "tf32 products"), False) if precision == "float32" else {}
    assert within == before | {"deterministic": deterministic, "tried": not deterministic} | exact
    assert switches() == before
    assert ("CUBLAS_WORKSPACE_CONFIG" in environment) == deterministic


def test_seeds_decide_what_is_drawn_and_leave_no_trace() -> None:
    compute = ComputeMode(Execution(), CPU)

    def drawn(seed: int) -> float:
        with compute.seeded(seed):
            return float(torch.rand(()))

    before = torch.get_rng_state()
    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(2**70 + 1) == drawn(2**70 + 1), "however large"
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float32_convolutions_are_exact_on_a_gpu() -> None:
    generator = torch.Generator().manual_seed(0)
    images, weights = torch.randn(8, 64, 16, 16, generator=generator), torch.randn(64, 64, 3, 3, generator=generator)
    exact = torch.conv2d(images.double(), weights.double())
    with ComputeMode(Execution(precision="float32"), CUDA).algorithms():
        found = torch.conv2d(images.cuda(), weights.cuda()).cpu().double()
    assert float((found - exact).abs().max() / exact.abs().max()) < 1e-5
