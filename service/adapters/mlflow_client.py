"""MlflowClient: the only room of the service that speaks to MLflow: a run's curves, its end where its driver could not
say it, its removal as far as MLflow removes, and whether MLflow answers at all.

It speaks MLflow's REST interface itself: one small request needs none of the client's imports. Drivers write the
rest; it must not know the database.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx

from search_spaces.protocol import DIAGNOSTICS, METRICS, RunStatus, Tag
from service.contract.errors import UnavailableError
from service.contract.schemas import Point
from service.settings import Settings

PROBE_TIMEOUT_S = (
    0.5  # of whoever asks whether MLflow answers: a probe of readiness itself waits no longer than a second
)
PAGE = 25_000
RUNS_PAGE = 1_000
TAG_CHARACTERS = 5_000
API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
INFINITY = sys.float_info.max  # as which MLflow's databases keep it


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExperimentRuns:
    """Identifies the MLflow runs of one experiment: each has its id as a tag."""

    experiment_id: str
    project: str
    mlflow_experiment_id: str | None


@dataclass(frozen=True)
class OpenRun:
    """A run that MLflow takes for running; the parent has no trial."""

    run_id: str
    trial: int | None


class MlflowClient:
    """Requests over one connection pool. Close it when done."""

    def __init__(self, settings: Settings) -> None:
        auth = None
        if settings.mlflow_username is not None:
            auth = httpx.BasicAuth(settings.mlflow_username, settings.mlflow_password or "")
        self._uri = settings.mlflow_tracking_uri
        self._public = settings.mlflow_public_url.rstrip("/")
        self._client = httpx.Client(timeout=settings.mlflow_timeout_s, auth=auth)
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="results")
        self._asked: Future[str] | None = None

    def run_url(self, experiment_id: str | None, run_id: str | None) -> str | None:
        """A run's page in MLflow, for a person."""
        if not (self._public and experiment_id and run_id):
            return None
        return f"{self._public}/#/experiments/{experiment_id}/runs/{run_id}"

    def curves(self, run_id: str, names: Iterable[str] = METRICS + DIAGNOSTICS) -> dict[str, list[Point]]:
        """Points of each metric that has any, by step; none for a run that MLflow does not know.

        Raises UnavailableError.
        """
        names = list(names)
        histories = self._pool.map(lambda name: self._history(run_id, name), names)
        return {name: points for name, points in zip(names, histories, strict=True) if points}

    def open_runs(self, runs: ExperimentRuns) -> list[OpenRun]:
        """The runs that have not ended, a page of them: ask again once those have. Raises UnavailableError."""
        found = self._search(runs, "attributes.status = 'RUNNING'")
        return [OpenRun(str(run["info"]["run_id"]), _trial(run)) for run in found]

    def end_run(self, run_id: str, status: RunStatus, tags: Mapping[str, str], at: datetime) -> None:
        """End a run, after its tags are set. Raises UnavailableError."""
        said = [{"key": name, "value": value[:TAG_CHARACTERS]} for name, value in tags.items()]
        self._post("/runs/log-batch", {"run_id": run_id, "tags": said})
        self._post("/runs/update", {"run_id": run_id, "status": status, "end_time": int(at.timestamp() * 1000)})

    def run_exists(self, run_id: str) -> bool:
        """Whether MLflow has a run and nobody deleted it. Raises UnavailableError."""
        answer = self._request(f"{API}/runs/get", {"run_id": run_id}, missing_ok=True)
        return answer.status_code == 200 and _json(answer)["run"]["info"]["lifecycle_stage"] == "active"

    def delete_run(self, run_id: str) -> None:
        """Raises UnavailableError."""
        self._post("/runs/delete", {"run_id": run_id})

    def remove(self, runs: ExperimentRuns) -> None:
        """Remove an experiment's registered versions, models, artifacts and runs, as far as they are there.

        MLflow itself only marks runs and logged models as deleted, until somebody calls `mlflow gc`; so do artifacts
        stay that its server does not hand out itself. Trials have none: the parent has all. Raises UnavailableError.
        """
        found = self._search(runs)
        for run in found:
            run_id = run["info"]["run_id"]
            if _trial(run) is None:
                self._remove_versions(run_id)
                self._remove_models(run["info"]["experiment_id"], run_id)
                self._remove_artifacts(run["info"].get("artifact_uri", ""), run_id)
            self.delete_run(run_id)
        if len(found) == RUNS_PAGE:
            self.remove(runs)

    def unavailable_reason(self) -> str:
        """What keeps MLflow from answering; empty when it answers. Nobody waits for it longer than PROBE_TIMEOUT_S."""
        asked = self._asked
        if asked is None or asked.done():
            asked = self._asked = self._pool.submit(self._ask)
        try:
            return asked.result(PROBE_TIMEOUT_S)
        except TimeoutError:
            return f"MLflow at {self._uri} does not answer within {PROBE_TIMEOUT_S:g} s"

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._client.close()

    def _ask(self) -> str:
        try:
            self._request(f"{API}/experiments/search", {"max_results": "1"})  # /health answers also whom it refuses
        except UnavailableError as error:
            return error.detail
        return ""

    def _history(self, run_id: str, name: str) -> list[Point]:
        points: list[Point] = []
        query = {"run_id": run_id, "metric_key": name, "max_results": str(PAGE)}
        while True:
            answer = _json(self._request(f"{API}/metrics/get-history", query))
            points += map(_point, answer.get("metrics", ()))
            if not (token := answer.get("next_page_token")):
                return sorted(points, key=lambda point: (point.step, point.timestamp))
            query["page_token"] = token

    def _search(self, runs: ExperimentRuns, condition: str = "") -> list[dict[str, Any]]:
        """ExperimentRuns of an experiment that are not deleted, at most a page; the parent comes last."""
        mlflow_experiment_id = runs.mlflow_experiment_id or self._mlflow_experiment_id(runs.project)
        if mlflow_experiment_id is None:
            return []
        mine = f"tags.`{Tag.EXPERIMENT_ID}` = '{runs.experiment_id}'"
        query = {
            "experiment_ids": [mlflow_experiment_id],
            "filter": f"{mine} and {condition}" if condition else mine,
            "run_view_type": "ACTIVE_ONLY",
            "max_results": RUNS_PAGE,
        }
        found: list[dict[str, Any]] = self._post("/runs/search", query).get("runs", [])
        return sorted(found, key=lambda run: _trial(run) is None)

    def _mlflow_experiment_id(self, project: str) -> str | None:
        answer = self._request(f"{API}/experiments/get-by-name", {"experiment_name": project}, missing_ok=True)
        return str(_json(answer)["experiment"]["experiment_id"]) if answer.status_code == 200 else None

    def _remove_versions(self, run_id: str) -> None:
        """The versions that came of a run; with the last one its registered model, which nobody would find empty."""
        for version in self._versions(f"run_id = '{run_id}'"):
            name = version["name"]
            of_model = [one for one in self._versions(_of_model(name)) if one["name"] == name]
            others = [one for one in of_model if one["version"] != version["version"]]
            what = {"name": name, "version": version["version"]} if others else {"name": name}
            path = "model-versions" if others else "registered-models"
            self._request(f"{API}/{path}/delete", body=what, method="DELETE", missing_ok=True)

    def _versions(self, condition: str) -> list[dict[str, str]]:
        query = {"filter": condition, "max_results": str(RUNS_PAGE)}
        found: list[dict[str, str]] = _json(self._request(f"{API}/model-versions/search", query)).get(
            "model_versions", []
        )
        return found

    def _remove_models(self, mlflow_experiment_id: str, run_id: str) -> None:
        models = {"experiment_ids": [mlflow_experiment_id], "filter": f"source_run_id = '{run_id}'"}
        for model in self._post("/logged-models/search", models).get("models", []):
            model_id = model["info"]["model_id"]
            self._remove_artifacts(model["info"].get("artifact_uri", ""), model_id)
            self._request(f"{API}/logged-models/{model_id}", method="DELETE", missing_ok=True)

    def _remove_artifacts(self, uri: str, of: str) -> None:
        """The folder of a run or model, where MLflow's server hands it out itself; `of` is a part of its path."""
        place = uri.removeprefix("mlflow-artifacts:/")
        if place == uri or place.startswith("/") or of not in place.split("/"):
            log.info("the files at %s are not MLflow's server's own: they stay until `mlflow gc`", uri or "no address")
            return
        answer = self._answer("DELETE", f"{ARTIFACTS}/{quote(place)}")
        if answer.status_code not in {200, 404}:
            said = f"{answer.status_code} {_shown(answer)}"
            log.warning("MLflow's server does not remove the files at %s, they stay until `mlflow gc`: %s", uri, said)

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
        response = self._answer(method, path, params=query, json=body)
        if response.status_code != 200 and not (missing_ok and response.status_code == 404):
            raise UnavailableError(f"MLflow at {self._uri} answers {response.status_code}: {_shown(response)}")
        return response

    def _answer(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._client.request(method, self._uri.rstrip("/") + path, **options)
        except httpx.HTTPError as error:
            raise UnavailableError(f"MLflow at {self._uri} does not answer: {error or type(error).__name__}") from error


def _of_model(name: str) -> str:
    """A filter that a model's versions pass. MLflow's filters know no escape: `_` is any character to LIKE."""
    pattern = name.translate({ord(character): "_" for character in "'\\"})
    return f"name = '{name}'" if pattern == name else f"name LIKE '{pattern}'"


def _json(response: httpx.Response) -> dict[str, Any]:
    """The object in an answer. Raises UnavailableError for one that MLflow would not give."""
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise UnavailableError(f"{response.url} does not answer as MLflow does: {_shown(response)}")
    return answer


def _shown(response: httpx.Response) -> str:
    """The beginning of an answer, as any database can hold it."""
    return response.text[:200].replace("\0", "")


def _trial(run: dict[str, Any]) -> int | None:
    tags = {tag["key"]: tag["value"] for tag in run.get("data", {}).get("tags", ())}
    number = str(tags.get(Tag.TRIAL_ID, ""))
    return int(number) if number.isdecimal() else None


def _point(metric: dict[str, Any]) -> Point:
    value = metric.get("value")
    number = float(value) if value is not None else float("nan")
    return Point(
        step=int(metric.get("step", 0)),
        value=number if abs(number) < INFINITY else None,
        timestamp=datetime.fromtimestamp(int(metric["timestamp"]) / 1000, UTC),
    )
