"""Fixtures of the benchmarks: real images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from search_spaces.datasets import Digits, FashionMNIST
from search_spaces.datasets.torchvision_files import TorchvisionReader
from workers.data.splits import Splits, load

ROOTS = (os.environ.get("RUNG_DATA_ROOT"), Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture(scope="session", autouse=True)
def _all_cores() -> None:
    """A benchmark that needs another number of threads sets it; the unit tests run with one."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))


@pytest.fixture(scope="session")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    """Fashion-MNIST from the data root or from the folder next to the checkout; skips if neither has it."""
    for root in filter(None, ROOTS):
        found = TorchvisionReader(FashionMNIST(), Path(root))
        if found.packed or found.unpacked:
            return load(FashionMNIST(), 0, Path(root), tmp_path_factory.mktemp("cache"), download=False)
    pytest.skip(f"no Fashion-MNIST in {ROOTS[1]}; set RUNG_DATA_ROOT to a folder that holds it")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    """The digits of scikit-learn, which need no files."""
    return load(Digits(), 0, tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("cache"))
