"""Trials on several GPUs in which only Ray believes, on a stack of their own: their processes train on CPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces.layout import ExperimentFolder
from service import stack
from service.client import Client
from tests.e2e.conftest import SHORT_TIMES

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TIMEOUT_S = 500.0
#: What Python runs first in each process of the stack: of Rung, only the choice of the device is replaced.
ON_CPU = """
import importlib.abc, importlib.util, sys

class OnCpu(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "workers.trial.device":
            return None
        sys.meta_path.remove(self)
        found = importlib.util.find_spec(name)
        execute = found.loader.exec_module
        def exec_module(module):
            execute(module)
            module.select_device = lambda spec: "cpu"
        found.loader.exec_module = exec_module
        return found

sys.meta_path.insert(0, OnCpu())
"""
SPEC = {
    "name": "several",
    "dataset": {"name": "digits"},
    "search_space": {
        "model": {"kind": "cnn", "width": 8, "depth": 1},
        "batch_size": 64,
        "optimizer": {"kind": "adam", "lr": {"choice": [0.003, 0.01]}},
    },
    "searcher": {"kind": "random", "num_samples": 2},
    "max_epochs": 2,
    "early_stopping": "none",
    "resources": {"gpus_per_trial": 2, "cpus_per_trial": 2},
}


@pytest.mark.timeout(900)
def test_a_search_whose_trials_have_two_gpus_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sitecustomize.py").write_text(ON_CPU)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "first"))
    for name, value in SHORT_TIMES.items():
        monkeypatch.setenv(name, value)
    home = tmp_path / "home"
    with (
        stack.running(stack.Options(home=home, num_cpus=3, num_gpus=2, data_root=tmp_path)) as up,
        Client(up.addresses.service, stack.owner_token(home)) as client,
    ):
        checked = client.submit(SPEC | {"resources": {"gpus_per_trial": 2}}, validate_only=True)
        assert any("resources.cpus_per_trial: should be at least 2" in one for one in checked.warnings)
        view = client.wait(client.submit(SPEC).id, timeout_s=TIMEOUT_S)
        trials = list(client.trials(view.id))
        [used] = client.accounting.usage().items
    folder = ExperimentFolder(home / "storage" / view.id)
    logs = [folder.trial(number).log.read_text() for number in range(2)]
    assert (view.state, [trial.state for trial in trials]) == ("COMPLETED", ["COMPLETED"] * 2), view.reason
    assert ["trained by 2 processes" in log for log in logs] == [True, True]
    assert view.winner is not None
    assert view.winner["test_accuracy"] > 0.5, "the networks have learned"
    assert used.gpu_hours == pytest.approx(2 * used.slot_hours), "a slot of both GPUs"
