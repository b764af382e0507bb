"""Tracking: the only writer to MLflow.

Owns the thread that reads the journal and tells MLflow what it says: a parent run for the experiment, a
child run for each trial, every point of every curve exactly once. It keeps its place in `tracking.json`.
Points carry the journal's timestamps, so a batch that is sent twice leaves one point: MLflow's key is
(run, metric, step, timestamp, value). A point that is told anew, because a crash or damage took it from the
journal and its epoch was trained again, is left out: runs of earlier processes are asked what they have.
What MLflow refuses for good is logged and left out, so that one bad
value holds up nothing. Training never waits for it. It must not know Ray or the service.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import RUN_STATUS, Launch, TrialState, Winner
from workers import journal
from workers.heartbeat import MlflowIds, Superseded
from workers.journal import Entry

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("rung.tracking")

#: MLflow's pages show such an experiment as training runs, not as a chat application.
SHOWN_AS = {"mlflow.experimentKind": "custom_model_development"}

MODEL_NAME_CHARACTERS, DESCRIPTION_CHARACTERS = 256, 5000

#: Answers that tell of the server, not of what it was asked.
TROUBLES = frozenset({"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"})


@dataclass
class _Place:
    """What is known of MLflow's side: all entries before `offset` are there; `runs` by trial.

    `mark` is the journal's at `offset`; None of older versions.
    """

    offset: int = 0
    mark: int | None = None
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
    """Follows the journal until `finish`. `answered_at` is when MLflow last took a run's news (monotonic seconds).

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
        self._place = _read_place(self._place_path, journal_path)
        # Up to here in the journal, runs may have been created whose ids were lost with a process or an answer.
        self._doubtful = math.inf if launch.attempt > 1 or self._place_path.exists() else 0
        # Steps that runs of earlier processes have, by run and metric; asked when a point is to be told.
        self._earlier: dict[str, dict[str, set[int]]] = {run: {} for run in self._place.runs.values()}
        self._fenced = fenced
        self._interval_s = interval_s
        self._reopened = launch.attempt == 1
        self.answered_at = -math.inf
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

    def stop(self) -> None:
        """Stop following. What is left is delivered by the next attempt."""
        self._finished.set()

    def finish(self) -> None:
        """Stop following, and deliver what is left. Raises what the client raises; nothing is lost then."""
        self.stop()
        if self.is_alive():
            self.join()
        with self._working:
            while self._deliver_some():
                pass

    def close_parent(self, status: str, summary: dict[str, float], tags: dict[str, str], step: int = 0) -> None:
        """Set the parent run's figures at `step` and end it with `status`. Raises what the client raises.

        An experiment that is extended is closed again: with more trials as its step, no figure stands twice.
        """
        from mlflow.entities import Metric

        parent, at_ms = self._parent_run(), self._last_ms()
        self._tell(parent, [Metric(name, value, at_ms, step) for name, value in summary.items()] + _tags(tags))
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
        self._place.mark = journal.mark(self._journal_path, offset)
        self._save_place()
        return True

    def _deliver_entries(self, entries: list[Entry]) -> None:
        parent = self._parent_run(_ms(entries[0]) if entries else None)
        if not self._reopened:
            self._reopen(parent)
        for number, batch in self._batches(entries).items():
            run = self._child_run(number, batch)
            self._tell(run, self._untold(run, batch.items) + _tags(batch.tags))
            if batch.ended:
                self._terminate(run, *batch.ended)
            self.answered_at = time.monotonic()

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
                if "source" in entry:
                    batch.tags["rung.continued_from"] = entry["source"]
            if "kind" in entry:
                batch.tags["rung.error_kind"] = entry["kind"]
            if "restarts" in entry:
                batch.tags["rung.restarts"] = str(entry["restarts"])
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

    def _reopen(self, parent: str) -> None:
        """The parent run of an experiment that had ended goes on with it."""
        from mlflow.exceptions import MlflowException

        try:
            self._connected().update_run(parent, status="RUNNING")
        except MlflowException as error:
            if not refused(error):
                raise
            log.error("MLflow refuses to go on with run %s: %s", parent, error)
        self._reopened = True

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

    def _child_run(self, number: int, batch: _Batch) -> str:
        runs = self._place.runs
        if number not in runs:
            query = f"tags.`rung.experiment_id` = '{self._launch.experiment_id}' and tags.`rung.trial_id` = '{number}'"
            found = self._found(query)
            if found:
                runs[number] = found
                self._earlier[found] = {}
        if number in runs and self._is_of_another(runs[number], batch):
            log.warning("run %s is of a trial %d that the journal has lost: it is deleted", runs[number], number)
            self._connected().delete_run(runs.pop(number))
        if number not in runs:
            tags = {
                "mlflow.parentRunId": self._parent_run(),
                "rung.experiment_id": self._launch.experiment_id,
                "rung.trial_id": str(number),
            }
            runs[number] = self._created(f"trial-{number:04d}", tags, batch.began_ms)
        return runs[number]

    def _is_of_another(self, run: str, batch: _Batch) -> bool:
        """Whether a run of an earlier process is of another configuration than the one to be told now."""
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        given = {item.key: item.value for item in batch.items if isinstance(item, Param)}
        if not given or run not in self._earlier:
            return False
        try:
            known = self._connected().get_run(run).data.params
        except MlflowException as error:
            if not refused(error):
                raise
            return False
        return any(known.get(key, value) != value for key, value in given.items())

    def _untold(self, run: str, items: list[Any]) -> list[Any]:
        """The items without the points that an earlier process told."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        if run not in self._earlier:
            return items
        told = self._earlier[run]
        for name in {item.key for item in items if isinstance(item, Metric)} - told.keys():
            try:
                told[name] = {point.step for point in self._connected().get_metric_history(run, name)}
            except MlflowException as error:
                if not refused(error):
                    raise
                told[name] = set()
        return [item for item in items if not (isinstance(item, Metric) and item.step in told[item.key])]

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


def away(error: Exception) -> bool:
    """Whether MLflow was not reached, or had trouble of its own: it may take the same later."""
    from mlflow.exceptions import MlflowException, RestException

    if isinstance(error, RestException):
        return error.error_code in TROUBLES
    return isinstance(error, MlflowException | OSError)


def _read_place(path: Path, journal_path: Path) -> _Place:
    """The place that was kept; its offset is the beginning where it cannot be read or the journal was cut since."""
    try:
        stored = json.loads(path.read_text())
        place = _Place(**stored | {"runs": {int(number): run for number, run in stored["runs"].items()}})
    except FileNotFoundError:
        return _Place()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("%s cannot be read, all is sent again: %r", path, error)
        return _Place()
    mark = journal.mark(journal_path, place.offset)
    if mark == -1 or place.mark not in (None, mark):
        log.warning("the journal is not what MLflow was told of, all is sent again")
        place.offset, place.writer, place.mark = 0, 0, None
    return place


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
