"""Each structure of a network is compiled once in a process, and later trials use it again."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from search_spaces.experiment import Execution
from search_spaces.models import CNN
from search_spaces.normalization import Batch
from tests.support.trainings import curve, splits, trial
from workers.data.splits import Splits
from workers.models.build import build_model
from workers.training import compiled
from workers.training.compiled import Compiler, Network
from workers.training.loop import Training

CAN_COMPILE = shutil.which("c++") is not None and Path(sysconfig.get_path("include"), "Python.h").exists()
WIDTHS = range(1, 13)  # more structures than Dynamo's limit of 8 entries


@pytest.fixture(autouse=True)
def _restored_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=8, accumulated_recompile_limit=256):
        yield
    torch._dynamo.reset()


def use(compiler: Compiler, width: int) -> None:
    network = compiler(build_model(CNN(width=width, depth=1), Batch(), 1, 4, 8), f"width {width}")
    network(torch.zeros(4, 1, 8, 8)).sum().backward()


def test_each_of_many_structures_is_compiled_once_and_used_again() -> None:
    counter = CompileCounter()
    compiler = Compiler(counter)
    counts = []
    for width in WIDTHS:
        use(compiler, width)
        counts.append(counter.frame_count)
    assert len(set(counts)) == len(WIDTHS), "a structure beyond the limit was not compiled"
    for width in WIDTHS:
        use(compiler, width)
    assert counter.frame_count == counts[-1]


def test_all_compiled_code_is_dropped_if_there_are_too_many_structures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "MAX_STRUCTURES", 2)
    counter = CompileCounter()
    compiler = Compiler(counter)
    for width in (1, 2, 3):
        use(compiler, width)
    before = counter.frame_count
    use(compiler, 3)
    assert counter.frame_count == before
    use(compiler, 1)
    assert counter.frame_count > before


class RecordingCompiler(Compiler):
    """Records the structures that it compiles, and uses a backend that needs no C++ compiler."""

    def __init__(self) -> None:
        super().__init__("eager")
        self.structures: list[str] = []

    def __call__(self, model: nn.Module, structure: str) -> Network:
        self.structures.append(structure)
        return super().__call__(model, structure)


def test_trials_have_equal_structures_if_only_weights_rates_and_seeds_differ() -> None:
    compiler = RecordingCompiler()

    def structure(data: Splits, seed: int = 5, **space: Any) -> str:
        spec = trial(**space).model_copy(update={"seed": seed, "execution": Execution(compile=True)})
        Training(spec, data, compiler=compiler)
        return compiler.structures[-1]

    plain = structure(splits())
    assert structure(splits(), seed=6, optimizer="sgd", label_smoothing=0.1, batch_size=64) == plain
    others = [
        structure(splits(), model={"kind": "cnn", "width": 8, "depth": 1}),
        structure(splits(), normalization="layer"),
        structure(splits(channels=3)),
        structure(splits(side=12)),
        structure(splits(classes=5)),
    ]
    assert len({plain, *others}) == 6


NEEDS_COMPILER = pytest.mark.skipif(not CAN_COMPILE, reason="Inductor needs a C++ compiler and Python's headers")


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, NEEDS_COMPILER])])
def test_a_compiled_trial_has_the_curve_of_an_uncompiled_one_and_a_later_trial_compiles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # an empty cache
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)  # starts no processes
    counters.clear()
    spec = trial(model={"kind": "cnn", "width": 2, "depth": 1}, normalization="none")
    execution = Execution(compile=True)
    compiler = Compiler(backend)
    plain = curve(Training(spec, splits(train=64)), 1)
    assert not counters["stats"], "a trial without `compile` compiled something"
    first = curve(Training(spec.model_copy(update={"execution": execution}), splits(train=64), compiler=compiler), 1)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs == 2, "one for training and one for evaluation"
    assert bool(counters["inductor"]) == (backend == "inductor")
    later = spec.model_copy(update={"execution": execution, "seed": spec.seed + 1})
    curve(Training(later, splits(train=64), compiler=compiler), 1)
    assert counters["stats"]["unique_graphs"] == graphs
    assert first[0] == pytest.approx(plain[0], rel=1e-4)
