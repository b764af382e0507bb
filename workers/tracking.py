"""Tracking: the only writer to MLflow.

Owns the thread that reads the journal and tells MLflow what it says: a parent run for the experiment, a
child run for each trial, every point of every curve exactly once. It keeps its place in `tracking.json`.
Points carry the journal's timestamps, so a batch that is sent twice leaves one point: MLflow's key is
(run, metric, step, timestamp, value). Training never waits for it. It must not know Ray or the service.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import Launch, TrialState, Winner
from workers import journal
from workers.heartbeat import MlflowIds
from workers.journal import Entry

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("rung.tracking")

RUN_STATUS = {
    TrialState.COMPLETED: "FINISHED",
    TrialState.EARLY_STOPPED: "FINISHED",
    TrialState.DIVERGED: "FINISHED",
    TrialState.ERROR: "FAILED",
    TrialState.CANCELED: "KILLED",
}


@dataclass
class _Place:
    """What is known of MLflow's side; `runs` and `parameters` by trial."""

    offset: int = 0
    experiment: str | None = None
    parent: str | None = None
    runs: dict[int, str] = field(default_factory=dict)


@dataclass
class _Batch:
    """All that one run is to be told at once."""

    metrics: list[Any] = field(default_factory=list)
    params: list[Any] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    ended: tuple[str, int] | None = None


class Tracker(threading.Thread):
    """Follows the journal until `finish`. `finish` waits until all is delivered, or until patience ends."""

    def __init__(self, launch: Launch, spec: ExperimentSpec, journal_path: Path, interval_s: float = 1.0) -> None:
        super().__init__(name="tracking", daemon=True)
        self._launch = launch
        self._spec = spec
        self._journal_path = journal_path
        self._place_path = journal_path.with_name("tracking.json")
        self._place = _read_place(self._place_path)
        self._uncertain = launch.attempt > 1 or self._place_path.exists()
        self._interval_s = interval_s
        self._client: MlflowClient | None = None
        self._finished = threading.Event()
        self._working = threading.Lock()

    def ids(self) -> MlflowIds:
        return MlflowIds(self._place.experiment, self._place.parent, dict(self._place.runs))

    def run(self) -> None:
        while not self._finished.wait(self._interval_s):
            self.deliver()

    def deliver(self) -> bool:
        """Tell MLflow what the journal has gained. False when it did not answer; nothing is lost then."""
        with self._working:
            try:
                while self._deliver_some():
                    pass
            except Exception as error:
                # Whatever the client raises, the entries stay in the journal and are tried again.
                log.warning("MLflow did not take the newest points, which are kept: %r", error)
                self._uncertain = True
                return False
            return True

    def finish(self, patience_s: float) -> bool:
        """Stop following; deliver what is left. False when MLflow stayed away for `patience_s`."""
        self._finished.set()
        self.join()
        waited, pause = 0.0, threading.Event()
        while not self.deliver():
            if waited >= patience_s:
                return False
            pause.wait(1.0)
            waited += 1.0
        return True

    def close_parent(self, status: str, summary: dict[str, float], tags: dict[str, str]) -> None:
        """Set the parent run's figures and end it with `status`. Raises what the client raises."""
        from mlflow.entities import Metric

        client, parent = self._connected(), self._parent_run()
        now_ms = self._ended_ms()
        client.log_batch(
            parent,
            metrics=[Metric(name, value, now_ms, 0) for name, value in summary.items()],
            tags=_tags(tags),
        )
        client.set_terminated(parent, status=status, end_time=now_ms)

    def register(self, folder: Path, winner: Winner) -> str:
        """Log the model saved in `folder` on the parent run and register it. Gives its `models:/` address."""
        from mlflow.exceptions import MlflowException

        client, parent = self._connected(), self._parent_run()
        name = f"{self._spec.project}.{self._spec.name}"
        model = client.create_logged_model(
            experiment_id=str(self._place.experiment),
            name="winner",
            source_run_id=parent,
            params={"trial": str(winner.trial)},
            tags={"rung.experiment_id": self._launch.experiment_id, "rung.trial_id": str(winner.trial)},
            model_type="classifier",
        )
        client.log_model_artifacts(model.model_id, str(folder))
        client.finalize_logged_model(model.model_id, "READY")
        try:
            client.create_registered_model(name, description=self._spec.description or None)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = client.create_model_version(
            name,
            source=f"models:/{model.model_id}",
            run_id=parent,
            model_id=model.model_id,
            tags={"rung.experiment_id": self._launch.experiment_id, "test_accuracy": f"{winner.test_accuracy:.4f}"},
        )
        return f"models:/{name}/{version.version}"

    def _deliver_some(self) -> bool:
        entries, offset = journal.read(self._journal_path, self._place.offset)
        if offset == self._place.offset:
            return False
        client = self._connected()
        self._parent_run()
        for number, batch in self._batches(entries).items():
            run = self._child_run(number)
            client.log_batch(run, batch.metrics, batch.params, _tags(batch.tags))
            if batch.ended:
                client.set_terminated(run, status=batch.ended[0], end_time=batch.ended[1])
        self._place.offset = offset
        self._uncertain = False
        self._save_place()
        return True

    def _batches(self, entries: Iterable[Entry]) -> dict[int, _Batch]:
        from mlflow.entities import Metric, Param

        batches: dict[int, _Batch] = {}
        for entry in entries:
            if "trial" not in entry or entry["event"] == "winner":
                continue
            batch = batches.setdefault(entry["trial"], _Batch())
            at_ms = int(entry["at"] * 1000)
            if entry["event"] == "suggested":
                batch.params += [Param(key, str(value)) for key, value in entry["parameters"].items()]
                batch.tags["rung.trial_state"] = TrialState.RUNNING
            if entry["event"] == "epoch":
                batch.metrics += [
                    Metric(name, float(value), at_ms, entry["epoch"]) for name, value in entry["metrics"].items()
                ]
            if "state" in entry:
                batch.tags |= {"rung.trial_state": entry["state"], "rung.stop_reason": entry["reason"]}
                batch.ended = RUN_STATUS[TrialState(entry["state"])], at_ms
        return batches

    def _connected(self) -> MlflowClient:
        if self._client is None:
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
            os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
            if self._launch.mlflow_username:
                os.environ["MLFLOW_TRACKING_USERNAME"] = self._launch.mlflow_username
                os.environ["MLFLOW_TRACKING_PASSWORD"] = self._launch.mlflow_password or ""
            from mlflow import MlflowClient

            self._client = MlflowClient(self._launch.mlflow_tracking_uri)
        return self._client

    def _parent_run(self) -> str:
        if self._place.parent is None:
            client = self._connected()
            self._place.experiment = _experiment(client, self._spec.project)
            query = f"tags.`rung.experiment_id` = '{self._launch.experiment_id}' and tags.`rung.role` = 'experiment'"
            tags = {
                "rung.experiment_id": self._launch.experiment_id,
                "rung.role": "experiment",
                "mlflow.note.content": self._spec.description,
                **{f"rung.label.{label}": "true" for label in self._spec.labels},
            }
            self._place.parent = self._found(query) or self._created(self._spec.name, tags)
            self._save_place()
        return self._place.parent

    def _child_run(self, number: int) -> str:
        if number not in self._place.runs:
            query = f"tags.`rung.experiment_id` = '{self._launch.experiment_id}' and tags.`rung.trial_id` = '{number}'"
            tags = {
                "mlflow.parentRunId": self._parent_run(),
                "rung.experiment_id": self._launch.experiment_id,
                "rung.trial_id": str(number),
            }
            run = self._found(query) or self._created(f"trial-{number:04d}", tags)
            self._place.runs[number] = run
        return self._place.runs[number]

    def _created(self, name: str, tags: dict[str, str]) -> str:
        run = self._connected().create_run(str(self._place.experiment), run_name=name, tags=tags)
        return str(run.info.run_id)

    def _found(self, query: str) -> str | None:
        """The run of a creation whose answer was lost. Asked only where that may have happened."""
        if not self._uncertain:
            return None
        runs = self._connected().search_runs([str(self._place.experiment)], query, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _ended_ms(self) -> int:
        return max((int(entry["at"] * 1000) for entry in journal.entries(self._journal_path)), default=0)

    def _save_place(self) -> None:
        part = self._place_path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self._place)))
        part.replace(self._place_path)


def _read_place(path: Path) -> _Place:
    if not path.exists():
        return _Place()
    stored = json.loads(path.read_text())
    return _Place(**stored | {"runs": {int(number): run for number, run in stored["runs"].items()}})


def _experiment(client: MlflowClient, project: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(project)
    if found is None:
        try:
            return str(client.create_experiment(project))
        except MlflowException:
            found = client.get_experiment_by_name(project)  # another driver may have been quicker
            if found is None:
                raise
    return str(found.experiment_id)


def _tags(tags: dict[str, str]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(key, str(value)) for key, value in tags.items()]
