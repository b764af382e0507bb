"""Memory that trials share: only a trial that wants more than its share fails, and it loses at most an epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from search_spaces.protocol import ErrorKind
from tests.support.capped_slots import train, train_together
from workers.failures.classification import Failure, TrialError, classified
from workers.trial.shared_memory import CONTEXT_BYTES, MemoryShare, torch_share

WIDE = {"model": {"kind": "cnn", "width": 512, "depth": 1}, "batch_size": 512}


def test_a_trial_that_exceeds_its_share_fails_and_continues_with_a_whole_device(
    config: Callable[..., dict[str, Any]],
) -> None:
    """In real processes, whose memory Linux limits. The trial had the device for itself in its first epoch."""
    undisturbed, too_large = (config(1, name, search_space=WIDE) for name in ("undisturbed", "too_large"))
    neighbor = config(2, "neighbor") | {"share": 0.25}
    expected, _ = train(undisturbed, 2)
    assert train(too_large, 1) == (expected[:1], None)
    (results, failure), beside = train_together([(too_large | {"share": 0.25}, 2), (neighbor, 3)])
    assert failure is not None
    assert (failure.kind, failure.exceeds_share, failure.node) == (ErrorKind.OUT_OF_MEMORY, True, "")
    assert results == expected[:1], "that of its checkpoint"
    assert (len(beside[0]), beside[1]) == (3, None)
    assert train(too_large, 2) == (expected, None), "it lost nothing"


def test_too_little_memory_of_the_host_exceeds_no_share() -> None:
    with pytest.raises(TrialError) as raised, classified(MemoryShare(0.25).is_exceeded):
        raise MemoryError("too large")
    assert raised.value.failure == Failure(ErrorKind.OUT_OF_MEMORY, "MemoryError: too large")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_too_little_memory_of_a_gpu_exceeds_a_share_only_where_there_is_one(error: Exception, share: float) -> None:
    with pytest.raises(TrialError) as raised, classified(MemoryShare(share).is_exceeded):
        raise error
    failure = raised.value.failure
    assert (failure.kind, failure.exceeds_share) == (ErrorKind.OUT_OF_MEMORY, share < 1)


@given(share=some.floats(0.01, 1), total=some.integers(2**30, 2**38))
def test_the_processes_of_all_shares_fit_together(share: float, total: int) -> None:
    part = torch_share(share, total)
    assert share / 2 <= part <= share
    processes = int(1 / share)
    if processes > 1 and share * total >= 2 * CONTEXT_BYTES:
        assert processes * (part * total + CONTEXT_BYTES) <= total * (1 + 1e-9)
