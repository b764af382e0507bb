"""How much the database and MLflow grow with each trial: figures of docs/operating.md, under "Capacity".

Run: make bench, or
python -m pytest tests/benchmarks/test_growth.py --override-ini addopts=--import-mode=importlib -s
"""

from __future__ import annotations

from pathlib import Path

from search_spaces.protocol import DIAGNOSTICS, METRICS, TrialState
from search_spaces.storage.folder import FolderStorage
from service.app import create_app
from service.scheduling.reconciler import Reconciler
from service.settings import Settings
from service.store.database import Database
from tests.support.memory_launcher import MemoryLauncher
from tests.support.real_mlflow import running_mlflow
from tests.support.server import serving
from tests.support.workers import experiment_spec, launch_config
from tests.support.world import World
from workers.state.recorder import Recorder
from workers.tracking.tracker import Tracker

TRIALS, EPOCHS, HYPERPARAMETERS = 500, 20, 8
MLFLOW_TRIALS = 50
VALUES = dict.fromkeys((*METRICS, *DIAGNOSTICS), 0.123456789)
SAMPLE = {f"optimizer.parameter_{number}": 0.0123456789 for number in range(HYPERPARAMETERS)}


def test_growth_of_the_database(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, reconcile=False, mlflow_tracking_uri="http://127.0.0.1:9")
    launcher = MemoryLauncher()
    app = create_app(settings, launcher)
    with serving(app) as client:
        world = World(client, launcher, Reconciler(app.state.context))
        database: Database = app.state.context.database
        experiment = world.started(searcher={"kind": "random", "num_samples": TRIALS})
        before = _size(database)
        for first in range(0, TRIALS, 100):
            lines = [
                world.line(
                    number,
                    state="COMPLETED",
                    epoch=EPOCHS,
                    best_value=0.5,
                    best_epoch=3,
                    metrics=VALUES,
                    parameters=SAMPLE,
                    sample=SAMPLE,
                    mlflow_run_id="0123456789abcdef0123456789abcdef",
                    stop_reason="all epochs done",
                )
                for number in range(first, first + 100)
            ]
            assert world.beat(experiment, {"phase": "searching", "trials": lines}).status_code == 200
        grown = _size(database) - before
    print(f"\nthe database grows by {grown / TRIALS / 1024:.1f} KiB per trial ({TRIALS} trials)")


def _size(database: Database) -> int:
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return database.size_bytes()


def test_growth_of_mlflow(tmp_path: Path) -> None:
    """The difference between trials of few epochs and of many is what an epoch takes."""
    server = tmp_path / "server"
    server.mkdir()
    grown = {}
    with running_mlflow(server) as uri:
        for name, epochs in (("first", 1), ("few", 1), ("many", 1 + EPOCHS)):
            before = _files(server)
            _deliver(tmp_path / name, uri, epochs)
            grown[name] = (_files(server) - before) / MLFLOW_TRIALS / 1024
    per_epoch = (grown["many"] - grown["few"]) / EPOCHS
    print(f"\nMLflow grows by {grown['few'] - per_epoch:.1f} KiB per trial and {per_epoch:.2f} KiB per epoch (SQLite)")


def _deliver(folder: Path, uri: str, epochs: int) -> None:
    folder.mkdir()
    storage, spec = FolderStorage(folder), experiment_spec(name=folder.name, max_epochs=epochs)
    recorder = Recorder(storage.journal, spec.objective)
    for number in range(MLFLOW_TRIALS):
        recorder.record_suggestion(number, {}, SAMPLE)
        for epoch in range(1, epochs + 1):
            recorder.record_epoch(
                number, epoch, VALUES, (TrialState.COMPLETED, "all epochs done") if epoch == epochs else None
            )
    Tracker(launch_config(folder, experiment_id=folder.name, mlflow_tracking_uri=uri), spec, storage).finish()
    recorder.close()


def _files(server: Path) -> int:
    return sum(path.stat().st_size for path in server.glob("*.db*"))
