"""Drivers that are only heartbeats and a few files: every launched attempt reports two trials, writes logs and what it
knows of its data, and obeys the orders in the answers."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx

from search_spaces.layout import ExperimentFolder
from search_spaces.protocol import LaunchConfig
from tests.support.data_reports import data_report
from tests.support.driver import Driver
from tests.support.memory_launcher import MemoryLauncher

INTERVAL_S = 0.1
TRIALS = [
    {"trial": 0, "state": "COMPLETED", "epoch": 2, "best_value": 0.5, "best_epoch": 1, "started_at": 1_700_000_000},
    {"trial": 1, "state": "RUNNING", "epoch": 1, "started_at": 1_700_000_001, "parameters": {"lr": 0.1}},
]
#: Of each trial.
TRACKED = {"mlflow_run_id": "r1", "sample": {}}
FINAL_PHASES = {"cancel": "canceled", "pause": "paused"}


class SimulatedDrivers:
    """Use it as a context: within the block, a thread plays the drivers of all launches."""

    def __init__(self, url: str, launcher: MemoryLauncher) -> None:
        self._url = url
        self._launcher = launcher
        self._ended: set[str] = set()
        self._begun: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> SimulatedDrivers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, trust_env=False) as client:
            while not self._stop.wait(INTERVAL_S):
                for attempt_id, launch in list(self._launcher.launches.items()):
                    if attempt_id not in self._ended:
                        self._beat(client, launch)

    def _beat(self, client: httpx.Client, launch: LaunchConfig) -> None:
        if launch.attempt_id not in self._begun:
            self._begun.add(launch.attempt_id)
            _write_files(launch)
        driver = Driver(client, launch)
        answer = driver.send_json({"phase": "searching", "trials": [trial | TRACKED for trial in TRIALS]})
        stop = answer.json().get("stop") if answer.status_code == 200 else None
        if stop:
            driver.send_json({"phase": FINAL_PHASES[stop]})
        if stop or answer.status_code in {404, 409}:
            self._ended.add(launch.attempt_id)


def _write_files(launch: LaunchConfig) -> None:
    folder = ExperimentFolder(Path(launch.storage))
    for path, text in (
        (folder.driver_log(launch.attempt), "started\n"),
        (folder.trial(0).log, "epoch 1\n"),
        (folder.data_report, data_report().model_dump_json()),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
