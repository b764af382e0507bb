"""Tracking: the only writer to MLflow.

Owns the thread that reads the journal and tells MLflow what it says: a parent run for the experiment, a
child run for each trial, every point of every curve exactly once. It keeps its place in `tracking.json`.
Points carry the journal's timestamps, so a batch that is sent twice leaves one point: MLflow's key is
(run, metric, step, timestamp, value). What MLflow refuses for good is logged and left out, so that one bad
value holds up nothing. Training never waits for it. It must not know Ray or the service.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import Launch, TrialState, Winner
from workers import journal
from workers.heartbeat import MlflowIds, Superseded
from workers.journal import Entry

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("rung.tracking")

#: MLflow's pages show such an experiment as training runs, not as a chat application.
SHOWN_AS = {"mlflow.experimentKind": "custom_model_development"}

MODEL_NAME_CHARACTERS, DESCRIPTION_CHARACTERS = 256, 5000

RUN_STATUS = {
    TrialState.COMPLETED: "FINISHED",
    TrialState.EARLY_STOPPED: "FINISHED",
    TrialState.DIVERGED: "FINISHED",
    TrialState.ERROR: "FAILED",
    TrialState.CANCELED: "KILLED",
}


@dataclass
class _Place:
    """What is known of MLflow's side: all entries before `offset` are there; `runs` by trial."""

    offset: int = 0
    writer: int = 0
    experiment: str | None = None
    parent: str | None = None
    runs: dict[int, str] = field(default_factory=dict)


@dataclass
class _Batch:
    """All that one run is to be told at once. Times are Unix milliseconds."""

    began_ms: int
    items: list[Any] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    ended: tuple[str, int] | None = None


class Tracker(threading.Thread):
    """Follows the journal until `finish`. `finish` waits until all is delivered, or until patience ends.

    Once `fenced` says so, nothing is written any more: all methods raise Superseded or do nothing.
    """

    def __init__(
        self,
        launch: Launch,
        spec: ExperimentSpec,
        journal_path: Path,
        fenced: Callable[[], bool] = lambda: False,
        interval_s: float = 2.0,
    ) -> None:
        super().__init__(name="tracking", daemon=True)
        self._launch = launch
        self._spec = spec
        self._journal_path = journal_path
        self._place_path = journal_path.with_name("tracking.json")
        self._place = _read_place(self._place_path)
        # Up to here in the journal, runs may have been created whose ids were lost with a process or an answer.
        self._doubtful = journal_path.stat().st_size if launch.attempt > 1 or self._place_path.exists() else 0
        self._fenced = fenced
        self._interval_s = interval_s
        self._client: MlflowClient | None = None
        self._model_id: str | None = None
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
                return False
            return True

    def finish(self, patience_s: float) -> bool:
        """Stop following; deliver what is left. False when MLflow stayed away for `patience_s`."""
        self._finished.set()
        self.join()
        deadline, pause = time.monotonic() + patience_s, threading.Event()
        while not self.deliver():
            if self._fenced() or time.monotonic() >= deadline:
                return False
            pause.wait(min(1.0, patience_s))
        return True

    def close_parent(self, status: str, summary: dict[str, float], tags: dict[str, str]) -> None:
        """Set the parent run's figures and end it with `status`. Raises what the client raises."""
        from mlflow.entities import Metric

        parent, at_ms = self._parent_run(), self._last_ms()
        self._tell(parent, [Metric(name, value, at_ms, 0) for name, value in summary.items()] + _tags(tags))
        self._terminate(parent, status, at_ms)

    def attach(self, folder: Path) -> None:
        """Log the files of a folder on the parent run, under the folder's name. Raises what the client raises."""
        self._connected().log_artifacts(self._parent_run(), str(folder), artifact_path=folder.name)

    def register(self, folder: Path, winner: Winner) -> str:
        """Log the model saved in `folder` on the parent run and register it. Gives its `models:/` address.

        A version that an earlier attempt registered for the same trial is kept.
        """
        from mlflow.exceptions import MlflowException

        client, parent = self._connected(), self._parent_run()
        name = f"{self._spec.project}.{self._spec.name}"[:MODEL_NAME_CHARACTERS]
        tags = {"rung.experiment_id": self._launch.experiment_id, "rung.trial_id": str(winner.trial)}
        for known in client.search_model_versions(f"run_id = '{parent}'"):
            if tags.items() <= known.tags.items():
                return f"models:/{known.name}/{known.version}"
        if self._model_id is None:  # else it was logged, and an answer after that was lost
            model = client.create_logged_model(
                experiment_id=str(self._place.experiment),
                name="winner",
                source_run_id=parent,
                params={"trial": str(winner.trial)},
                tags=tags,
                model_type="classifier",
            )
            client.log_model_artifacts(model.model_id, str(folder))
            client.finalize_logged_model(model.model_id, "READY")
            self._model_id = str(model.model_id)
        try:
            client.create_registered_model(name, description=self._spec.description[:DESCRIPTION_CHARACTERS] or None)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = client.create_model_version(
            name,
            source=f"models:/{self._model_id}",
            run_id=parent,
            model_id=self._model_id,
            tags=tags | {"test_accuracy": f"{winner.test_accuracy:.4f}"},
        )
        return f"models:/{name}/{version.version}"

    def _deliver_some(self) -> bool:
        entries, offset, writer = journal.read(self._journal_path, self._place.offset, self._place.writer)
        if offset == self._place.offset:
            return False
        try:
            self._deliver_entries(entries)
        except Exception:
            self._doubtful = max(self._doubtful, offset)
            raise
        self._place.offset, self._place.writer = offset, writer
        self._save_place()
        return True

    def _deliver_entries(self, entries: list[Entry]) -> None:
        self._parent_run(_ms(entries[0]) if entries else None)
        for number, batch in self._batches(entries).items():
            run = self._child_run(number, batch.began_ms)
            self._tell(run, batch.items + _tags(batch.tags))
            if batch.ended:
                self._terminate(run, *batch.ended)

    def _batches(self, entries: Iterable[Entry]) -> dict[int, _Batch]:
        from mlflow.entities import Metric, Param

        batches: dict[int, _Batch] = {}
        for entry in entries:
            if "trial" not in entry or entry["event"] == "winner":
                continue
            at_ms = _ms(entry)
            batch = batches.setdefault(entry["trial"], _Batch(at_ms))
            if entry["event"] == "suggested":
                batch.items += [Param(key, str(value)) for key, value in entry["parameters"].items()]
                batch.tags["rung.trial_state"] = TrialState.RUNNING
            if entry["event"] == "epoch":
                batch.items += [
                    Metric(name, float(value), at_ms, entry["epoch"]) for name, value in entry["metrics"].items()
                ]
            if "state" in entry:
                batch.tags |= {"rung.trial_state": entry["state"], "rung.stop_reason": entry["reason"]}
                batch.ended = RUN_STATUS[TrialState(entry["state"])], at_ms
        return batches

    def _tell(self, run: str, items: list[Any]) -> None:
        """Log metrics, params and tags. Where some are refused for good, all others are logged."""
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException

        of_kind: list[Any] = [[item for item in items if isinstance(item, kind)] for kind in (Metric, Param, RunTag)]
        client = self._connected()
        try:
            client.log_batch(run, *of_kind)
        except MlflowException as error:
            if not refused(error):
                raise
            if len(items) == 1 or not self._is_active(run):
                log.error("MLflow refuses %s of run %s: %s", [item.key for item in items], run, error)
                return
            middle = len(items) // 2
            self._tell(run, items[:middle])
            self._tell(run, items[middle:])

    def _terminate(self, run: str, status: str, at_ms: int) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._connected().set_terminated(run, status=status, end_time=at_ms)
        except MlflowException as error:
            if not refused(error):
                raise
            log.error("MLflow refuses the end of run %s: %s", run, error)

    def _is_active(self, run: str) -> bool:
        """False for a run that somebody deleted."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self._connected().get_run(run).info.lifecycle_stage) == "active"
        except MlflowException as error:
            if not refused(error):
                raise
            return False

    def _connected(self) -> MlflowClient:
        if self._fenced():
            raise Superseded("another attempt has taken over")
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

    def _parent_run(self, began_ms: int | None = None) -> str:
        if self._place.parent is None:
            client = self._connected()
            self._place.experiment = _experiment(client, self._spec.project)
            query = f"tags.`rung.experiment_id` = '{self._launch.experiment_id}' and tags.`rung.role` = 'experiment'"
            tags = {
                "rung.experiment_id": self._launch.experiment_id,
                "rung.role": "experiment",
                "mlflow.note.content": self._spec.description[:DESCRIPTION_CHARACTERS],
                "rung.labels": ", ".join(self._spec.labels),
            }
            self._place.parent = self._found(query) or self._created(self._spec.name, tags, began_ms)
            self._save_place()
        return self._place.parent

    def _child_run(self, number: int, began_ms: int) -> str:
        if number not in self._place.runs:
            query = f"tags.`rung.experiment_id` = '{self._launch.experiment_id}' and tags.`rung.trial_id` = '{number}'"
            tags = {
                "mlflow.parentRunId": self._parent_run(),
                "rung.experiment_id": self._launch.experiment_id,
                "rung.trial_id": str(number),
            }
            run = self._found(query) or self._created(f"trial-{number:04d}", tags, began_ms)
            self._place.runs[number] = run
        return self._place.runs[number]

    def _created(self, name: str, tags: dict[str, str], began_ms: int | None) -> str:
        run = self._connected().create_run(str(self._place.experiment), began_ms, tags, name)
        return str(run.info.run_id)

    def _found(self, query: str) -> str | None:
        """The run of a creation whose answer was lost. Asked only where that may have happened."""
        if self._place.offset >= self._doubtful:
            return None
        runs = self._connected().search_runs([str(self._place.experiment)], query, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _last_ms(self) -> int:
        """When the experiment last changed: the same for every attempt that finds it at its end."""
        entries = (entry for entry in journal.entries(self._journal_path) if entry["event"] != "attempt")
        return max(map(_ms, entries), default=0)

    def _save_place(self) -> None:
        part = self._place_path.with_suffix(f".{os.getpid()}.part")
        try:
            part.write_text(json.dumps(asdict(self._place)))
            part.replace(self._place_path)
        except OSError as error:
            log.warning("an older place is kept, and what came after it will be sent twice: %s", error)


def refused(error: Exception) -> bool:
    """Whether MLflow itself says that it will never take this; anything else may pass when tried again."""
    from mlflow.exceptions import MlflowException, RestException

    if not isinstance(error, MlflowException):
        return False
    missing = error.error_code == "RESOURCE_DOES_NOT_EXIST" and isinstance(error, RestException)
    return missing or error.error_code == "INVALID_PARAMETER_VALUE"


def _read_place(path: Path) -> _Place:
    """The place that was kept, or the beginning where it cannot be read: nothing is sent with another time."""
    try:
        stored = json.loads(path.read_text())
        return _Place(**stored | {"runs": {int(number): run for number, run in stored["runs"].items()}})
    except FileNotFoundError:
        return _Place()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("%s cannot be read, all is sent again: %r", path, error)
        return _Place()


def _experiment(client: MlflowClient, project: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(project)
    if found is None:
        try:
            return str(client.create_experiment(project, tags=SHOWN_AS))
        except MlflowException:
            found = client.get_experiment_by_name(project)  # another driver may have been quicker
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)  # its name cannot be used otherwise
    return str(found.experiment_id)


def _ms(entry: Entry) -> int:
    return int(entry["at"] * 1000)


def _tags(tags: dict[str, str]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(key, str(value)) for key, value in tags.items()]
