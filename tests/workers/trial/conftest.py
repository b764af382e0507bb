"""What the tests of a slot share: a trial's folder, and a process that is left as it was."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces.experiment import ExperimentSpec
from search_spaces.layout import ExperimentFolder
from tests.support.trial_slots import SPEC


@pytest.fixture(autouse=True)
def _one_process() -> Any:
    """What a slot sets for its process is put back."""
    threads, level = torch.get_num_threads(), logging.getLogger().level
    yield
    torch.set_num_threads(threads)
    logging.getLogger().setLevel(level)


@pytest.fixture
def config(tmp_path: Path, experiment: Callable[..., ExperimentSpec]) -> Callable[..., dict[str, Any]]:
    """A folder with the bound spec of trial `number`, and what Tune hands to the slot."""

    def build(number: int = 0, name: str = "trial", **changes: Any) -> dict[str, Any]:
        spec = experiment(**changes)
        sample = {"optimizer": 0, "optimizer[0].lr": 0.003, "batch_size": 1, "label_smoothing": 0.1}
        storage = tmp_path / name
        folder = ExperimentFolder(storage).trial(number).root
        folder.mkdir(parents=True)
        (folder / SPEC).write_text(spec.bind(sample, number).model_dump_json())
        roots = {
            "data_root": str(tmp_path / "data"),
            "cache_root": str(tmp_path / "cache"),
            "marker": "",
            "version": "",
        }
        return {"trial": number, "storage": str(storage), "epoch": 1000, "share": 1.0, **roots}

    return build
