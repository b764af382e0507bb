"""A small server of MLflow's REST interface: the runs, model versions and logged models that the service uses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from search_spaces.storage.base import open_storage
from search_spaces.tracking_record import TrackingRecord
from tests.support.handlers import QuietHandler, handling
from tests.support.world import World

API = "/api/2.0/mlflow"


class Mlflow:
    """Its content, and the requests that it received."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.versions: list[dict[str, str]] = []
        self.models: dict[str, str] = {}
        self.requests: list[str] = []
        self.unavailable = False
        self.artifacts: set[str] = set()
        self.experiment_tags: set[tuple[str, str]] = set()
        self.overrides: dict[str, bytes] = {}  # bodies to answer with, by a text in the request
        self.on_update: Callable[[], object] = lambda: None

    def add(self, run_id: str, experiment_id: str, trial: int | None, status: str = "RUNNING") -> None:
        tags = {"rung.experiment_id": experiment_id} | ({} if trial is None else {"rung.trial_id": str(trial)})
        artifact_uri = f"mlflow-artifacts:/7/{run_id}/artifacts"
        self.runs[run_id] = {"status": status, "tags": tags, "deleted": False, "artifact_uri": artifact_uri}

    def answer(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> dict[str, Any] | None:
        self.requests.append(f"{method} {path.removeprefix(API)}")
        if path == f"{API}/runs/search":
            return self._search(body)
        if path == f"{API}/runs/log-batch":
            if any(len(tag["value"]) > 5000 for tag in body["tags"]):
                return None
            self.runs[body["run_id"]]["tags"] |= {tag["key"]: tag["value"] for tag in body["tags"]}
        if path == f"{API}/runs/update":
            self.runs[body["run_id"]] |= {"status": body["status"], "end_time": body["end_time"]}
            self.on_update()
        if path == f"{API}/runs/delete":
            self.runs[body["run_id"]]["deleted"] = True
        if path == f"{API}/experiments/delete-experiment-tag":
            self.experiment_tags.remove((body["experiment_id"], body["key"]))
        if path == f"{API}/model-versions/search":
            condition = re.fullmatch(r"(name|run_id) = '([^']*)'", query["filter"])
            assert condition
            field, value = condition.groups()
            return {"model_versions": [version for version in self.versions if version[field] == value]}
        if path == f"{API}/model-versions/delete":
            self.versions = [v for v in self.versions if (v["name"], v["version"]) != (body["name"], body["version"])]
        if path == f"{API}/logged-models/search":
            found = [name for name, run in self.models.items() if body["filter"] == f"source_run_id = '{run}'"]
            return {
                "models": [
                    {"info": {"model_id": name, "artifact_uri": f"mlflow-artifacts:/7/models/{name}/artifacts"}}
                    for name in found
                ]
            }
        if path == f"{API}/registered-models/delete":
            self.versions = [version for version in self.versions if version["name"] != body["name"]]
        if method == "DELETE" and path.startswith("/api/2.0/mlflow-artifacts/artifacts/"):
            folder = path.removeprefix("/api/2.0/mlflow-artifacts/artifacts/")
            self.artifacts = {artifact for artifact in self.artifacts if not artifact.startswith(folder)}
        if method == "DELETE" and "/logged-models/" in path:
            del self.models[path.rpartition("/")[2]]
        return {}

    def _search(self, body: dict[str, Any]) -> dict[str, Any]:
        condition = re.match(r"attributes\.run_id IN \((.*?)\)", body["filter"])
        assert condition, "runs are searched by id only"
        assert body["experiment_ids"] == ["7"]
        ids = re.findall(r"'([^']*)'", condition[1])
        assert len(ids) <= body["max_results"]
        found = [
            {"info": {"run_id": name, "experiment_id": "7", "artifact_uri": run["artifact_uri"]}}
            for name, run in self.runs.items()
            if name in ids and not run["deleted"] and f"!= '{run['status']}'" not in body["filter"]
        ]
        return {"runs": found}


def failed_experiment(world: World, mlflow: Mlflow) -> str:
    """An experiment whose driver died after it had begun a parent and three children, and told of two.

    It had recorded all of them.
    """
    one = world.started()
    for run_id, trial in (("parent", None), ("done", 0), ("open", 1), ("untold", 2)):
        mlflow.add(run_id, one, trial)
    done = world.line(0, state="EARLY_STOPPED", stop_reason="rung 1", ended_at=1_700_000_009, mlflow_run_id="done")
    lines = [done, world.line(1, mlflow_run_id="open")]
    ids = {"mlflow_experiment_id": "7", "mlflow_run_id": "parent", "mlflow_view": "key of another experiment"}
    mlflow.experiment_tags |= {("7", f"mlflow.sharedViewState.{key}") for key in (f"rung-{one}", ids["mlflow_view"])}
    record_runs(world, one, "parent", {0: "done", 1: "open", 2: "untold"})
    world.beat(one, {"phase": "failed", "reason": "the data is gone", "trials": lines, **ids})
    assert world.show(one)["state"] == "ERROR"
    return str(one)


def record_runs(
    world: World, experiment_id: str, parent: str, trials: dict[int, str], mlflow_experiment: str = "7"
) -> None:
    """What a driver records of its runs in the experiment's storage."""
    storage = open_storage(world.launcher.launches[f"exp-{experiment_id}-a1"].storage)
    recorded = TrackingRecord(offset=0, writer=0, experiment=mlflow_experiment, parent=parent, runs=trials)
    recorded.write(storage.artifacts)


@contextmanager
def serving(mlflow: Mlflow) -> Iterator[str]:
    """The address of the server, which runs for the length of the block."""

    class Handler(QuietHandler):
        def respond(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            text = self.body()
            answer = (
                None if mlflow.unavailable else mlflow.answer(self.command, url.path, query, json.loads(text or "{}"))
            )
            body = json.dumps(answer or {}).encode()
            body = next((body for part, body in mlflow.overrides.items() if part.encode() in text), body)
            self.answer(503 if mlflow.unavailable else 200 if answer is not None else 404, body)

    with handling(Handler) as address:
        yield address
