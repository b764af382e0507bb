"""A pass of the scheduler over a long queue: the CPU time that it takes. The work of a pass is counted in
tests/service/scheduling/test_long_queue.py."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import insert

from search_spaces.controls import Controls
from search_spaces.experiment import ExperimentSpec
from service.app import open_context
from service.domain.cluster import Cluster, Node
from service.scheduling.reconciler import Reconciler
from service.settings import Settings
from service.store.accounts import Team, User
from service.store.models import Experiment
from tests.support.memory_launcher import MemoryLauncher

QUEUED, TARGET_S, PASSES = 5_000, 0.1, 10
TEAMS, PEOPLE = ("vision", "speech", "text"), 12


def test_a_pass_with_thousands_of_queued_experiments(tmp_path: Path) -> None:
    """Of four sizes of trials and twelve people in three teams, so that as many candidates as possible are read; 32
    experiments run on 64 GPUs."""
    launcher = MemoryLauncher()
    launcher.nodes = Cluster(tuple(Node(f"n{index}", cpus=32, gpus=8, id=f"n{index}") for index in range(8)))
    context = open_context(Settings(home=tmp_path, reconcile=False, heartbeat_s=1000), launcher)
    context.database.migrate()
    sizes = [{"cpus_per_trial": cpus, "gpus_per_trial": gpus} for cpus in (1, 2) for gpus in (0.5, 1)]
    specs = [ExperimentSpec.model_validate({"name": "x", "resources": size}) for size in sizes]
    now = datetime.now(UTC)
    with context.database.write() as session:
        for team in TEAMS:
            session.add(Team(id=team, name="", created_at=now))
        for person in range(PEOPLE):
            session.add(User(id=f"u{person}", login=f"u{person}", created_at=now))
        session.flush()
        session.execute(insert(Experiment), [_row(number, specs[number // PEOPLE % 4]) for number in range(QUEUED)])
    reconciler = Reconciler(context)
    reconciler.reconcile_once()
    began = time.process_time()
    for _ in range(PASSES):
        reconciler.reconcile_once()
    spent = (time.process_time() - began) / PASSES
    context.close()
    print(f"\na pass with {QUEUED} queued experiments: {spent:.3f} s of CPU time (target {TARGET_S} s)")
    assert len(launcher.launches) == 32
    assert spent < TARGET_S


def _row(number: int, spec: ExperimentSpec) -> dict[str, object]:
    digits = "23456789ab"
    return {
        "id": "".join(digits[int(digit)] for digit in f"{number:08d}"),
        "name": "x",
        "project": "p",
        "state": "QUEUED",
        "phase": "",
        "reason": "",
        "warnings": [],
        "revision": 1,
        "spec": spec.model_dump(mode="json"),
        "spec_version": spec.version,
        "priority": 0,
        "controls": Controls.of(spec).model_dump(mode="json"),
        "cpus_per_trial": spec.resources.cpus_per_trial,
        "gpus_per_trial": spec.resources.gpus_per_trial,
        "attempt": 0,
        "failures": 0,
        "slots": 0,
        "mlflow_closed": False,
        "team_id": TEAMS[number % PEOPLE % len(TEAMS)],
        "owner_id": f"u{number % PEOPLE}",
        "created_at": datetime(2026, 1, 2, tzinfo=UTC) + timedelta(seconds=number),
    }
