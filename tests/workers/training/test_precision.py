"""Precision and determinism on a GPU, checked without one by the settings that change; seeds, which are restored."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
import torch

from search_spaces.experiment import Execution
from workers.training.precision import ComputeMode

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture(params=[True, False], ids=["computes bfloat16", "emulates bfloat16"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the GPU computes bfloat16; otherwise it emulates it."""

    def supported(including_emulation: bool = True) -> bool:
        return request.param or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    return bool(request.param)


def switches() -> dict[str, bool]:
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "tf32 convolutions": torch.backends.cudnn.allow_tf32,
        "tf32 products": torch.backends.cuda.matmul.allow_tf32,
    }


def set_switches(values: dict[str, bool]) -> None:
    torch.use_deterministic_algorithms(values["deterministic"])
    torch.backends.cudnn.benchmark = values["benchmark"]
    torch.backends.cudnn.allow_tf32 = values["tf32 convolutions"]
    torch.backends.cuda.matmul.allow_tf32 = values["tf32 products"]


@pytest.fixture(params=[False, True], ids=["torch's defaults", "the opposite"])
def before(request: pytest.FixtureRequest) -> Iterator[dict[str, bool]]:
    """The switches as other code in the process has set them."""
    defaults = switches()
    set_switches({name: value != request.param for name, value in defaults.items()})
    yield switches()
    set_switches(defaults)


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16", "float16"])
def test_precision_on_a_gpu_is_that_of_the_spec_and_auto_depends_on_the_device(precision: str, native: bool) -> None:
    compute = ComputeMode(Execution(precision=precision), CUDA)
    expected = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}.get(
        precision, torch.bfloat16 if native else torch.float16
    )
    assert compute.precision == expected
    assert compute.scaler().is_enabled() == (expected == torch.float16)
    with compute.autocast():
        assert torch.is_autocast_enabled("cuda") == (expected != torch.float32)
        if expected != torch.float32:
            assert torch.get_autocast_dtype("cuda") == expected
    assert not torch.is_autocast_enabled("cuda")


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16", "float16"])
def test_a_cpu_computes_in_float32_and_changes_no_switch(precision: str) -> None:
    compute = ComputeMode(Execution(precision=precision, deterministic=True), CPU)
    assert compute.precision == torch.float32
    assert not compute.scaler().is_enabled()
    before = switches()
    with compute.algorithms(), compute.autocast():
        assert switches() == before
        assert not torch.is_autocast_enabled("cpu")


def switches_within(compute: ComputeMode) -> dict[str, bool]:
    """The switches within a block that ends with an exception."""
    within: dict[str, bool] = {}
    with contextlib.suppress(KeyError), compute.algorithms():
        within |= switches()
        raise KeyError
    return within


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_algorithms_are_those_of_the_spec_and_are_restored_after_an_error(
    precision: str, deterministic: bool, before: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    monkeypatch.setattr(os, "environ", environment)
    within = switches_within(ComputeMode(Execution(precision=precision, deterministic=deterministic), CUDA))
    exact = dict.fromkeys(("tf32 convolutions", "tf32 products"), False) if precision == "float32" else {}
    assert within == before | {"deterministic": deterministic, "benchmark": not deterministic} | exact
    assert switches() == before
    assert ("CUBLAS_WORKSPACE_CONFIG" in environment) == deterministic


def test_a_seed_decides_what_is_drawn_and_the_generator_is_restored() -> None:
    compute = ComputeMode(Execution(), CPU)

    def drawn(seed: int) -> float:
        with compute.seeded(seed):
            return float(torch.rand(()))

    before = torch.get_rng_state()
    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(2**70 + 1) == drawn(2**70 + 1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float32_convolutions_are_exact_on_a_gpu() -> None:
    generator = torch.Generator().manual_seed(0)
    images, weights = torch.randn(8, 64, 16, 16, generator=generator), torch.randn(64, 64, 3, 3, generator=generator)
    exact = torch.conv2d(images.double(), weights.double())
    with ComputeMode(Execution(precision="float32"), CUDA).algorithms():
        computed = torch.conv2d(images.cuda(), weights.cuda()).cpu().double()
    assert float((computed - exact).abs().max() / exact.abs().max()) < 1e-5
