"""When the probe runs, and what follows from its failures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from ray import exceptions

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import Directives, ErrorKind, LaunchConfig, Packing
from tests.support.nodes import MemoryCluster
from tests.support.workers import BuildLaunch, BuildSpec
from workers.failures.classification import TrialError
from workers.nodes import Nodes
from workers.packing import gpu_probe
from workers.packing.gpu_probe import MOST_LOSSES, NOT_MEASURED, GpuProbe

FOUR = Packing(trials=4)
LOST = exceptions.WorkerCrashedError()


class Cluster(MemoryCluster):
    """Its nodes have a GPU each."""

    def nodes(self) -> list[Mapping[str, Any]]:
        return [one | {"Resources": {"CPU": 2.0, "GPU": 1.0}} for one in map(dict, super().nodes())]


class Scripted:
    """Measures what is given, in turn; an exception is raised. Counts the slots and selectors of each turn."""

    def __init__(self, *results: Packing | Exception | None) -> None:
        self._results: Iterator[Packing | Exception | None] = iter(results)
        self.selectors: list[Mapping[str, str]] = []

    def __call__(
        self, spec: ExperimentSpec, launch: LaunchConfig, selector: Mapping[str, str], interrupted: Callable[[], bool]
    ) -> Packing | None:
        self.selectors.append(selector)
        assert not interrupted()
        result = next(self._results)
        if isinstance(result, Exception):
            raise result
        return result


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_probe, "POLL_S", 0.0)


@pytest.fixture
def measured(launch: BuildLaunch, experiment: BuildSpec) -> Callable[..., Packing | None]:
    def measure(scripted: Scripted, slots: Sequence[int] = (), stop: Sequence[bool] = ()) -> Packing | None:
        config, slot_of, stop_of = launch(), iter(slots), iter(stop)
        probe = GpuProbe(Nodes(config, Cluster("a", "b")), scripted)
        spec = experiment(resources={"gpus_per_trial": "auto"})
        return probe.measure(spec, config, lambda: Directives(slots=next(slot_of, 1)), lambda: next(stop_of, False))

    return measure


def test_it_waits_for_a_slot_and_measures_once(measured: Callable[..., Packing | None]) -> None:
    scripted = Scripted(FOUR)
    assert measured(scripted, slots=[0, 0, 0, 0]) == FOUR
    assert len(scripted.selectors) == 1


def test_where_its_slot_is_taken_it_measures_again_later(measured: Callable[..., Packing | None]) -> None:
    scripted = Scripted(None, FOUR)
    assert measured(scripted) == FOUR
    assert len(scripted.selectors) == 2


def test_an_attempt_that_must_stop_measures_nothing(measured: Callable[..., Packing | None]) -> None:
    assert measured(Scripted(), stop=[True]) is None


def test_a_process_that_is_lost_is_started_again_a_few_times(measured: Callable[..., Packing | None]) -> None:
    assert measured(Scripted(LOST, FOUR)) == FOUR
    assert measured(Scripted(*[LOST] * MOST_LOSSES)) is None, "a later attempt may measure it"


@pytest.mark.parametrize("kind", [ErrorKind.OUT_OF_MEMORY, ErrorKind.CODE])
def test_a_configuration_that_cannot_be_trained_gives_each_trial_a_gpu(
    measured: Callable[..., Packing | None], kind: ErrorKind
) -> None:
    found = measured(Scripted(TrialError(kind, "CUDA out of memory")))
    assert found == Packing(trials=1, note=f"{NOT_MEASURED}CUDA out of memory")


@pytest.mark.parametrize("kind", [ErrorKind.DISK_FULL, ErrorKind.NODE, ErrorKind.DATA, ErrorKind.PLUGIN])
def test_what_is_no_fault_of_the_configuration_decides_nothing(
    measured: Callable[..., Packing | None], kind: ErrorKind
) -> None:
    assert measured(Scripted(TrialError(kind, "no space left"))) is None


def test_a_gpu_that_cannot_be_used_is_a_problem_of_its_node(
    launch: BuildLaunch, experiment: BuildSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("CUDA driver initialization failed")

    monkeypatch.setattr(torch.cuda, "init", fail)
    with pytest.raises(TrialError, match=r"has no usable CUDA device.*: CUDA driver initialization failed") as caught:
        gpu_probe._measure_here(experiment(resources={"gpus_per_trial": "auto"}), launch(), on_gpu=True)
    assert caught.value.failure.kind is ErrorKind.NODE


def test_a_node_that_cannot_be_used_is_left(measured: Callable[..., Packing | None]) -> None:
    a, b = (TrialError(ErrorKind.NODE, f"node {name} does not see the storage", name) for name in "ab")
    scripted = Scripted(a, FOUR)
    assert measured(scripted) == FOUR
    assert scripted.selectors == [{}, {"ray.io/node-id": "!in(a)"}]
    assert measured(Scripted(a, b)) is None
