"""MlflowClient: typed calls to MLflow's REST interface.

Owns the requests and how MLflow's answers are read. It speaks the REST interface directly, because the imports of
MLflow's own client take seconds and the service needs few calls. Drivers write most of what it reads. It must not know
the database, nor which calls belong together: `mlflow_cleanup` does.
"""

from __future__ import annotations

import copy
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from search_spaces.mlflow_view import TAG_PREFIX, run_path, view_path
from search_spaces.protocol import DIAGNOSTICS, METRICS, RunStatus
from search_spaces.request_limits import AnswerTooLargeError, RequestLimits
from service.contract.errors import UnavailableError
from service.contract.schemas import Point
from service.http_client import fetch, open_client
from service.settings import Settings

METRIC_POINTS_PER_PAGE = 25_000  # the most that MLflow returns
MAX_PAGES = 1_000  # a server that always has one more is not MLflow
VERSIONS_PER_PAGE = 1_000
RUNS_PER_REQUEST = 500  # MLflow parses their ids in about 0.2 s
#: Of a run that has not ended: it is RUNNING, or SCHEDULED while its experiment is paused.
NOT_ENDED = tuple(f"attributes.status != '{status}'" for status in RunStatus)
RUN_ID = re.compile(r"[\w.-]+", re.ASCII)  # what stands in a filter of MLflow, which cannot escape a quote
TAG_CHARACTERS = 5_000  # longer values are refused by MLflow
CURVES_AT_ONCE = 8  # requests to MLflow for curves, of all trials
TRIALS_AT_ONCE = 4  # whose curves are read: a thread waits for each, of those for all requests of people
CURVES_WAIT_S = 1.0
RETRY_CURVES_S = 2
PAUSES_S = (0.05, 0.1, 0.2, 0.4)  # before a request is repeated: one that failed by chance succeeds by then
API = "/api/2.0/mlflow"
ADMINISTRATION = "/api/3.0/mlflow"  # of roles and workspaces
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
ALREADY_EXISTS = "RESOURCE_ALREADY_EXISTS"
WORKSPACE_HEADER = "X-MLFLOW-WORKSPACE"
INFINITY = sys.float_info.max  # MLflow's databases store an infinite value as this number

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run that is not deleted."""

    run_id: str
    mlflow_experiment_id: str
    artifact_uri: str


@dataclass(frozen=True)
class ModelVersion:
    """A version of a registered model. `source` is what it was made from: `models:/` and the id of a logged model."""

    name: str
    version: str
    source: str


@dataclass(frozen=True)
class LoggedModel:
    """A model that a run logged, registered or not."""

    model_id: str
    artifact_uri: str


class MlflowClient:
    """Requests over one connection pool. Close it when done. All requests raise UnavailableError."""

    def __init__(self, settings: Settings) -> None:
        auth = None
        if settings.mlflow_username is not None:
            auth = httpx.BasicAuth(settings.mlflow_username, settings.mlflow_password or "")
        self.uri = settings.mlflow_tracking_uri
        self._public_url = settings.mlflow_public_url.rstrip("/")
        self._client = open_client(self.uri, timeout=settings.mlflow_timeout_s, auth=auth)
        self._timeout_s = settings.mlflow_timeout_s
        self._limits = RequestLimits(settings.mlflow_timeout_s)
        self._pool = ThreadPoolExecutor(CURVES_AT_ONCE, thread_name_prefix="mlflow-curves")
        self._turns = threading.BoundedSemaphore(TRIALS_AT_ONCE)
        self._workspace: str | None = None

    def within(self, workspace: str | None) -> MlflowClient:
        """The same client for one workspace: what is elsewhere does not exist for it, whatever id is asked for. None:
        without one, as for an MLflow that has none."""
        inside = copy.copy(self)
        inside._workspace = workspace
        return inside

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._client.close()

    def run_url(self, mlflow_experiment_id: str | None, run_id: str | None) -> str | None:
        """The page of a run in MLflow's user interface. Sends no request."""
        if not (self._public_url and mlflow_experiment_id and run_id):
            return None
        return self._public_url + run_path(mlflow_experiment_id, run_id, self._workspace)

    def view_url(self, mlflow_experiment_id: str | None, key: str | None) -> str | None:
        """The page of a view that was written with `write_view`, or by a driver. Sends no request."""
        if not (self._public_url and mlflow_experiment_id and key):
            return None
        return self._public_url + view_path(mlflow_experiment_id, key, self._workspace)

    def delete_view(self, mlflow_experiment_id: str, key: str) -> None:
        """Does nothing where it does not exist."""
        body = {"experiment_id": mlflow_experiment_id, "key": TAG_PREFIX + key}
        self._request(f"{API}/experiments/delete-experiment-tag", body=body, method="POST", missing_ok=True)

    def ping(self) -> None:
        """Ask what every driver will ask. MLflow's /health also answers clients that it would refuse."""
        response = self._send_once("GET", f"{API}/experiments/search", params={"max_results": "1"})
        self._check(response)
        answer = _json(response)
        if answer and not isinstance(answer.get("experiments"), list):  # none is an empty object
            raise _unexpected(response)

    def curves(self, run_id: str, names: Iterable[str] = METRICS + DIAGNOSTICS) -> dict[str, list[Point]]:
        """The points of each metric that has any, by step; empty for a run that MLflow does not know.

        The time limit of one request is that of all metrics together: an MLflow that hangs must not hold the caller.
        """
        names = list(names)
        if not self._turns.acquire(timeout=CURVES_WAIT_S):
            raise UnavailableError.busy(
                f"MLflow has not yet answered for the curves of {TRIALS_AT_ONCE} other trials", RETRY_CURVES_S
            )
        try:
            histories = self._pool.map(lambda name: self._history(run_id, name), names, timeout=self._timeout_s)
            return {name: points for name, points in zip(names, histories, strict=True) if points}
        except TimeoutError:
            raise UnavailableError(f"MLflow did not answer within {self._timeout_s:g} s") from None
        finally:
            self._turns.release()

    def find_runs(
        self, mlflow_experiments: Iterable[str], run_ids: Iterable[str], *, open_only: bool = False
    ) -> list[Run]:
        """Those of the runs that are not deleted, in the order of `run_ids`. An id that MLflow cannot have is left out.

        `open_only`: those that have not ended.
        They are asked for by id: anybody who may edit a run can give it any tag.
        """
        experiments, found = sorted(set(mlflow_experiments)), []
        ids = [run_id for run_id in dict.fromkeys(run_ids) if RUN_ID.fullmatch(run_id)]
        for first in range(0, len(ids) if experiments else 0, RUNS_PER_REQUEST):
            some = ids[first : first + RUNS_PER_REQUEST]
            condition = f"attributes.run_id IN ({', '.join(map(repr, some))})"
            query = {
                "experiment_ids": experiments,
                "filter": " and ".join((condition, *NOT_ENDED)) if open_only else condition,
                "run_view_type": "ACTIVE_ONLY",
                "max_results": RUNS_PER_REQUEST,
            }
            known = {run.run_id: run for run in self._items(self._post("/runs/search", query), "runs", _run)}
            found += [known[run_id] for run_id in some if run_id in known]
        return found

    def end_run(self, run_id: str, status: RunStatus, tags: Mapping[str, str], at: datetime) -> None:
        """Set the tags of a run, then end it."""
        shortened = [{"key": name, "value": value[:TAG_CHARACTERS]} for name, value in tags.items()]
        self._post("/runs/log-batch", {"run_id": run_id, "tags": shortened})
        self._post("/runs/update", {"run_id": run_id, "status": status, "end_time": int(at.timestamp() * 1000)})

    def delete_run(self, run_id: str) -> None:
        self._post("/runs/delete", {"run_id": run_id})

    def versions_of_run(self, run_id: str) -> list[ModelVersion]:
        """The model versions that a run produced."""
        return self._model_versions(f"run_id = '{run_id}'")

    def versions_of_model(self, name: str) -> list[ModelVersion]:
        """The versions of a registered model whose name has no quote, which MLflow's filters cannot escape."""
        return self._model_versions(f"name = '{name}'")

    def delete_model_version(self, version: ModelVersion) -> None:
        """Does nothing where it does not exist."""
        body = {"name": version.name, "version": version.version}
        self._request(f"{API}/model-versions/delete", body=body, method="DELETE", missing_ok=True)

    def delete_registered_model(self, name: str) -> None:
        """Delete a registered model with all its versions. Does nothing where it does not exist."""
        self._request(f"{API}/registered-models/delete", body={"name": name}, method="DELETE", missing_ok=True)

    def logged_models(self, run: Run) -> list[LoggedModel]:
        query = {"experiment_ids": [run.mlflow_experiment_id], "filter": f"source_run_id = '{run.run_id}'"}
        return self._items(self._post("/logged-models/search", query), "models", _logged_model)

    def delete_logged_model(self, model: LoggedModel) -> None:
        """Does nothing where it does not exist."""
        self._request(f"{API}/logged-models/{model.model_id}", method="DELETE", missing_ok=True)

    def delete_artifacts(self, uri: str, owner_id: str) -> None:
        """Delete the artifact folder of a run or logged model, if MLflow's server stores it.

        `owner_id` must be part of the path, so that no wrong address deletes the artifacts of others.
        """
        path = uri.removeprefix("mlflow-artifacts:/")
        if path == uri or path.startswith("/") or owner_id not in path.split("/"):
            log.info("keeping the files at %s: MLflow's server does not store them; run `mlflow gc`", uri or "no URI")
            return
        response = self._send("DELETE", f"{ARTIFACTS}/{quote(path)}")
        if response.status_code not in {200, 404}:
            answer = f"{response.status_code} {_excerpt(response)}"
            log.warning("MLflow's server did not delete the files at %s; run `mlflow gc`: %s", uri, answer)

    def administer(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, exists_ok: bool = False
    ) -> dict[str, Any]:
        """The answer to a request about users, roles or workspaces; empty where what it makes exists (`exists_ok`)."""
        response = self._send(method, path, json=body)
        if exists_ok and response.status_code >= HTTPStatus.BAD_REQUEST and ALREADY_EXISTS in response.text:
            return {}
        if response.status_code not in {HTTPStatus.OK, HTTPStatus.CREATED}:
            self._check(response)
        return _json(response)

    def _history(self, run_id: str, name: str) -> list[Point]:
        points: list[Point] = []
        query = {"run_id": run_id, "metric_key": name, "max_results": str(METRIC_POINTS_PER_PAGE)}
        for _ in range(MAX_PAGES):
            answer = _json(self._request(f"{API}/metrics/get-history", query))
            points += self._items(answer, "metrics", _point)
            if not (token := answer.get("next_page_token")):
                return sorted(points, key=lambda point: (point.step, point.timestamp))
            query["page_token"] = str(token)
        raise UnavailableError(f"MLflow at {self.uri} does not answer as MLflow does: more than {MAX_PAGES} pages")

    def _model_versions(self, condition: str) -> list[ModelVersion]:
        query = {"filter": condition, "max_results": str(VERSIONS_PER_PAGE)}
        return self._items(_json(self._request(f"{API}/model-versions/search", query)), "model_versions", _version)

    def _items(self, answer: dict[str, Any], name: str, parse: Callable[[dict[str, Any]], T]) -> list[T]:
        """A list of an answer, which leaves out empty ones. Raises UnavailableError for items that are not MLflow's."""
        try:
            return [parse(item) for item in answer.get(name, ())]
        except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError, OSError) as error:  # of dates, too
            why = f"{name}: {error!r:.200}".replace("\0", "")
            raise UnavailableError(f"MLflow at {self.uri} does not answer as MLflow does: {why}") from error

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return _json(self._request(API + path, body=body, method="POST"))

    def _request(
        self,
        path: str,
        query: dict[str, str] | None = None,
        *,
        body: dict[str, Any] | None = None,
        method: str = "GET",
        missing_ok: bool = False,
    ) -> httpx.Response:
        response = self._send(method, path, params=query, json=body)
        self._check(response, missing_ok=missing_ok)
        return response

    def _check(self, response: httpx.Response, *, missing_ok: bool = False) -> None:
        if response.status_code != 200 and not (missing_ok and response.status_code == 404):
            raise UnavailableError(f"MLflow at {self.uri} answers {response.status_code}: {_excerpt(response)}")

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The answer to a request. It is repeated after an error of the server: each has the same effect twice."""
        for pause_s in PAUSES_S:
            response = self._send_once(method, path, **options)
            if response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
                return response
            time.sleep(pause_s)
        return self._send_once(method, path, **options)

    def _send_once(self, method: str, path: str, **options: Any) -> httpx.Response:
        if self._workspace is not None:
            options["headers"] = {WORKSPACE_HEADER: self._workspace}
        try:
            return fetch(self._client, self._limits, method, self.uri.rstrip("/") + path, **options)
        except (httpx.HTTPError, TimeoutError, AnswerTooLargeError) as error:
            reason = str(error) or type(error).__name__
            raise UnavailableError(f"MLflow at {self.uri} does not answer: {reason}") from error


def _json(response: httpx.Response) -> dict[str, Any]:
    """The object in a response. Raises UnavailableError where there is none: the server is not MLflow."""
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise _unexpected(response)
    return answer


def _unexpected(response: httpx.Response) -> UnavailableError:
    return UnavailableError(f"{response.url} did not answer as MLflow does: {_excerpt(response)}")


def _excerpt(response: httpx.Response) -> str:
    """The beginning of a response, without NUL, which PostgreSQL cannot store."""
    return response.text[:200].replace("\0", "")


def _run(run: dict[str, Any]) -> Run:
    info = run["info"]
    return Run(
        run_id=str(info["run_id"]),
        mlflow_experiment_id=str(info.get("experiment_id", "")),
        artifact_uri=str(info.get("artifact_uri", "")),
    )


def _version(version: dict[str, Any]) -> ModelVersion:
    return ModelVersion(str(version["name"]), str(version["version"]), str(version.get("source", "")))


def _logged_model(model: dict[str, Any]) -> LoggedModel:
    info = model["info"]
    return LoggedModel(str(info["model_id"]), str(info.get("artifact_uri", "")))


def _point(metric: dict[str, Any]) -> Point:
    value = metric.get("value")
    number = float(value) if value is not None else float("nan")
    return Point(
        step=int(metric.get("step", 0)),
        value=number if abs(number) < INFINITY else None,
        timestamp=datetime.fromtimestamp(int(metric["timestamp"]) / 1000, UTC),
    )
