"""Reclaim on a real stack with two slots: a team that borrows both gives them back to their team, and loses nothing."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from search_spaces.layout import ExperimentFolder
from search_spaces.storage.folder import FolderStorage
from service import stack
from service.client import Client
from service.contract.schemas import ExperimentView
from service.store.database import Database
from tests.support.pools import clear, set_grant, set_pool

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

GRACE_S = 30.0
START_S = 150.0  # of a driver and its first worker on a busy machine: 60 s were seen
TIMEOUT_S = 400.0
SPEC = {
    "project": "sharing",
    "dataset": {"name": "digits"},
    "search_space": {
        "model": {"kind": "cnn", "width": 16, "depth": 2},
        "batch_size": 32,
        "label_smoothing": {"uniform": [0.0, 0.1]},
    },
    "early_stopping": "none",
    "resources": {"gpus_per_trial": 0},
}
LONG = SPEC | {"searcher": {"kind": "random", "num_samples": 3}, "max_epochs": 50}
SHORT = SPEC | {"name": "guaranteed", "searcher": {"kind": "random", "num_samples": 2}, "max_epochs": 40}
BORROWER, OWNER = "speech", "vision"


@pytest.fixture
def teams(client: Client, up: stack.Stack) -> Iterator[None]:
    """Two teams; one is guaranteed all slots, the other may borrow them."""
    for team in (BORROWER, OWNER):
        client.identity.create_team(team)
    database = Database(f"sqlite:///{up.home / 'rung.db'}")
    set_pool(database, min_run_s=1.0, preempt_grace_s=GRACE_S)
    set_grant(database, OWNER, quota=2)
    yield
    clear(database)
    database.close()


@pytest.mark.timeout(900)
def test_a_team_below_its_quota_gets_the_slots_of_one_that_borrows_everything(
    client: Client, storage: Path, teams: None
) -> None:
    undisturbed = client.submit(LONG | {"name": "undisturbed"}, team=BORROWER).id
    client.wait(undisturbed, timeout_s=TIMEOUT_S)
    borrower = client.submit(LONG | {"name": "borrower"}, team=BORROWER).id
    wait_until(lambda: sum(trial.epoch > 2 for trial in client.trials(borrower)) == 2, "both slots are used")
    guaranteed, begun = client.submit(SHORT, team=OWNER).id, time.monotonic()
    wait_until(lambda: any(trial.epoch for trial in client.trials(guaranteed)), "the first epoch of the other team")
    assert time.monotonic() - begun < GRACE_S + START_S, "within the grace, beside the start of a driver"
    wait_until(lambda: [one.experiment_id for one in client.queue().items] == [borrower], "it returns to the queue")
    client.wait(guaranteed, timeout_s=TIMEOUT_S)
    view = client.wait(borrower, timeout_s=TIMEOUT_S)
    assert (view.state, [attempt.state for attempt in view.attempts]) == ("COMPLETED", ["ENDED"] * 2), no_failure(view)
    assert curves(storage / borrower) == curves(storage / undisturbed)
    assert trained(storage / borrower) == trained(storage / undisturbed), "no epoch was trained twice"


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline, f"timeout: {what}"
        time.sleep(0.2)


def no_failure(view: ExperimentView) -> str:
    return "; ".join(attempt.reason for attempt in view.attempts)


def curves(folder: Path) -> dict[tuple[int, int], dict[str, Any]]:
    """What the journal has of each epoch, without times."""
    entries = FolderStorage(folder).journal.entries()
    epochs = {(one["trial"], one["epoch"]): one["metrics"] for one in entries if one["event"] == "epoch"}
    timed = ("seconds", "per_second")
    return {key: {n: v for n, v in found.items() if not n.endswith(timed)} for key, found in epochs.items()}


def trained(folder: Path) -> dict[int, Counter[int]]:
    """How often each epoch of each trial was trained to its end, as the logs of the trials say."""
    logs = {number: ExperimentFolder(folder).trial(number).log.read_text() for number in range(3)}
    return {number: Counter(map(int, re.findall(r"epoch (\d+): [a-z]", text))) for number, text in logs.items()}
