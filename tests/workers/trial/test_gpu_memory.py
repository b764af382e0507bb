"""The memory of a GPU that trials share, on a GPU."""

from __future__ import annotations

import pytest
import torch

from workers.failures.classification import TrialError, classified
from workers.trial.shared_memory import MemoryShare, torch_share

pytestmark = pytest.mark.gpu


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_refuses_more_than_the_share_and_nothing_less() -> None:
    total = torch.cuda.mem_get_info()[1]
    memory = MemoryShare(0.25)
    memory.cap()
    try:
        with pytest.raises(TrialError) as raised, classified(memory.is_exceeded):
            torch.empty(int(0.3 * total), dtype=torch.uint8, device="cuda")
        assert raised.value.failure.exceeds_share
        torch.empty(int(0.9 * torch_share(0.25, total) * total), dtype=torch.uint8, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
