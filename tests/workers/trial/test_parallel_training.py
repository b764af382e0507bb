"""A trial that several processes train, on real digits: what it finds and saves, and how it ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces.experiment import ExperimentSpec, TrialSpec
from search_spaces.layout import BEST, LAST
from search_spaces.protocol import ErrorKind
from tests.support.trainings import RANDOM_ALL_OVER, TIMES
from tests.support.trial_slots import SPEC, begun, folder_of, names, said
from workers.data.splits import Splits, load
from workers.failures.classification import TrialError
from workers.training.loop import EpochInterruptedError, Training
from workers.trial import device, group_member
from workers.trial.parallel_training import ParallelTraining

SPACE = RANDOM_ALL_OVER | {"optimizer": {"kind": "sgd", "lr": 0.02, "momentum": 0.9}, "batch_size": 64}


def spec_of(**space: Any) -> TrialSpec:
    return ExperimentSpec(name="x", search_space=SPACE | space, max_epochs=4, seed=5).bind({})


def data_of(spec: TrialSpec, folder: Path) -> Splits:
    return load(spec.dataset, spec.split_seed, folder, folder / "cache")


def members_of(training: ParallelTraining) -> list[int]:
    return [member._process.pid for member in training._members]


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_group_trains_as_one_process_and_each_resumes_what_the_other_saved(tmp_path: Path) -> None:
    spec = spec_of()
    data = data_of(spec, tmp_path)
    torch.set_num_threads(1)
    alone, group = Training(spec, data), ParallelTraining(spec, data, tmp_path, tmp_path / "cache", 2)
    assert group.batches == alone.batches

    expected, found = [alone.run_epoch() for _ in range(2)], [group.run_epoch() for _ in range(2)]

    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert timeless(ours) == pytest.approx(timeless(theirs), rel=1e-3, abs=1e-4)
    assert (group.epoch, group.best_epoch, group.diverged) == (alone.epoch, alone.best_epoch, alone.diverged)
    assert group.best_value == pytest.approx(alone.best_value)
    assert is_same_form(group.state_dict(), alone.state_dict())
    for name, weights in alone.weights().items():
        assert torch.allclose(group.weights()[name], weights, rtol=1e-3, atol=1e-4), name
    assert alone.best_right is not None
    assert group.best_right is not None
    assert torch.equal(group.best_right, alone.best_right)

    of_group = Training(spec, data)
    of_group.load_state_dict(group.state_dict())
    third = timeless(of_group.run_epoch())
    assert third == pytest.approx(timeless(group.run_epoch()), rel=1e-3, abs=1e-4)
    group.load_state_dict(alone.state_dict())
    assert (group.epoch, group.best_value) == (2, alone.best_value)
    assert timeless(group.run_epoch()) == pytest.approx(timeless(alone.run_epoch()), rel=1e-3, abs=1e-4)

    processes = members_of(group)
    os.kill(processes[1], signal.SIGKILL)
    with pytest.raises(TrialError, match=r"process 1 of those .* was ended by signal SIGKILL") as raised:
        group.run_epoch()
    assert raised.value.failure.kind is ErrorKind.LOST
    assert not any(map(is_alive, processes))


def test_an_epoch_that_is_interrupted_leaves_no_process(tmp_path: Path) -> None:
    spec = spec_of(model={"kind": "resnet", "depth": 56, "width": 64})  # whose epoch takes long
    is_asked, seen = False, set[int]()

    def interrupted() -> bool:
        seen.add(group.batch if is_asked else 0)
        return is_asked and max(seen) > 0

    group = ParallelTraining(spec, data_of(spec, tmp_path), tmp_path, tmp_path / "cache", 2, "cpu", interrupted)
    processes, is_asked = members_of(group), True
    with pytest.raises(EpochInterruptedError):
        group.run_epoch()
    assert not any(map(is_alive, processes))


def test_other_images_than_those_of_the_trial_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec = spec_of()
    other = replace(data_of(spec, tmp_path), digests={"train": "other"})
    with pytest.raises(TrialError, match="the images changed") as raised:
        ParallelTraining(spec, other, tmp_path, tmp_path / "cache", 2)
    assert raised.value.failure.kind is ErrorKind.DATA
    assert "Traceback" in capfd.readouterr().err, "for the log of the trial"


def test_an_error_of_an_exchange_differs_from_one_of_its_own() -> None:
    lost = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:22017"
    assert group_member.is_exchange_error(RuntimeError(lost))
    assert not group_member.is_exchange_error(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not group_member.is_exchange_error(ConnectionResetError("Connection reset by peer"))


@pytest.mark.slow
def test_a_trial_whose_process_is_lost_resumes_from_its_last_epoch(
    config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "select_device", lambda spec: "cpu")
    told = config()
    spec = folder_of(told) / SPEC
    spec.write_text(TrialSpec.model_validate_json(spec.read_bytes()).model_copy(update={"gpus": 2}).model_dump_json())
    slot = begun(told)
    first = slot.step()
    assert names(told) >= {BEST, LAST}
    assert "on cpu with 1 thread, trained by 2 processes" in said(told)
    assert isinstance(slot._training, ParallelTraining)
    processes = members_of(slot._training)
    os.kill(processes[0], signal.SIGSTOP)  # the other one waits for it
    began = time.monotonic()
    os.kill(processes[1], signal.SIGKILL)
    with pytest.raises(TrialError, match="SIGKILL"):
        slot.step()
    assert time.monotonic() - began < 60
    assert not any(map(is_alive, processes))

    slot = begun(told)
    assert slot.step() == first, "reported again"
    assert slot.step()["epoch"] == 2
    assert isinstance(slot._training, ParallelTraining)
    processes = members_of(slot._training)
    slot.cleanup()
    assert not any(map(is_alive, processes))


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in TIMES}


def is_same_form(ours: Any, theirs: Any) -> bool:
    """Whether two states have the same names, shapes and types."""
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(is_same_form(ours[name], theirs[name]) for name in theirs)
    if isinstance(theirs, torch.Tensor):
        return (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    return type(ours) is type(theirs)
