"""A whole search with Rung, compared in one run with the same search as a plain Ray Tune script.

Run: make bench, or
python -m pytest tests/benchmarks/test_search.py --override-ini addopts=--import-mode=importlib -s --timeout 1800

60 trials of a two-convolution network on digits, batch 64, ASHA(max_t 8, grace 1, reduction 3), two slots.
Rung's time is from POST to COMPLETED with a warm, idle service; the script's is the duration of its process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service import stack
from service.client import Client

SLOTS = 2
SPEC: dict[str, Any] = {
    "name": "sixty-digits",
    "search_space": {
        "model": {"kind": "cnn", "width": 16, "depth": 2},
        "batch_size": 64,
        "scheduler": "constant",
        "optimizer": {
            "choice": [
                {"kind": "adam", "lr": {"loguniform": [1e-3, 1e-1]}},
                {"kind": "sgd", "lr": {"loguniform": [1e-3, 1e-1]}},
            ]
        },
    },
    "searcher": {"kind": "random", "num_samples": 60},
    "max_epochs": 8,
    "early_stopping": {"kind": "asha", "grace_period": 1, "reduction_factor": 3},
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    options = stack.Options(home=tmp_path_factory.mktemp("home"), num_cpus=SLOTS)
    with stack.running(options) as running, Client(running.addresses.service, stack.owner_token(running.home)) as rung:
        warm_up = rung.submit(SPEC | {"name": "warm-up", "searcher": {"kind": "random", "num_samples": 2}})
        for _ in rung.watch(warm_up.id, 0.5):
            pass
        time.sleep(30)  # until the service is idle and its warm workers have been started again
        yield rung


def test_sixty_trials(client: Client, tmp_path: Path) -> None:
    began = time.perf_counter()
    submitted = client.submit(SPEC)
    posted = time.perf_counter() - began
    first: float | None = None
    for view in client.watch(submitted.id, 0.1):
        if view.best is not None:
            first = time.perf_counter() - began
            break
    *_, view = client.watch(
        submitted.id, 0.5
    )  # as often as the command line polls: each request takes CPU time from the slots
    wall = time.perf_counter() - began
    assert view.state == "COMPLETED"
    assert sum(view.trials.values()) == 60

    trials = list(client.trials(view.id))
    seconds = [point.value for t in trials for point in client.curves(view.id, t.trial).metrics["epoch_seconds"]]
    trained = sum(value for value in seconds if value is not None)
    training_began = min(t.started_at for t in trials if t.started_at is not None)
    assert view.ended_at is not None
    after = (view.ended_at - training_began).total_seconds()
    efficiency = trained / (SLOTS * after)

    folders = str(tmp_path / "plain.db"), str(tmp_path / "plain")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    output = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("plain_ray_tune.py")), f"sqlite:///{folders[0]}", folders[1]],
        check=True,
        capture_output=True,
        text=True,
        env=environment | {"HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"},
    ).stdout
    plain = float(output.strip().splitlines()[-1])

    print(f"\nPOST took {posted * 1000:.0f} ms, first epoch over REST after {first:.1f} s")
    print(f"60 trials, {len(seconds)} epochs: {wall:.1f} s; plain Ray Tune {plain:.1f} s; ratio {wall / plain:.3f}")
    print(f"slot efficiency from the first epoch to COMPLETED {efficiency:.2f}")
    assert posted < 0.1
    assert first is not None
    assert first < 10
    assert wall <= plain / 10
    assert efficiency >= 0.5
