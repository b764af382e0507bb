"""Housekeeping against a small server of MLflow's REST interface: runs end, deletions are complete, files age."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import func, select

from service.context import Context
from service.housekeeping import Housekeeping
from service.launcher import JobStatus
from service.settings import Settings
from service.store.models import Base, IdempotencyKey

API = "/api/2.0/mlflow"


class Mlflow:
    """Runs, model versions and logged models, as far as the service asks for them. Down until `up`."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.versions: list[dict[str, str]] = []
        self.models: dict[str, str] = {}
        self.requests: list[str] = []
        self.away = False

    def add(self, run_id: str, experiment_id: str, trial: int | None, status: str = "RUNNING") -> None:
        tags = {"rung.experiment_id": experiment_id} | ({} if trial is None else {"rung.trial_id": str(trial)})
        self.runs[run_id] = {"status": status, "tags": tags, "deleted": False}

    def answer(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> dict[str, Any] | None:
        self.requests.append(f"{method} {path.removeprefix(API)}")
        if path == f"{API}/experiments/get-by-name":
            return {"experiment": {"experiment_id": "7"}} if query["experiment_name"] == "default" else None
        if path == f"{API}/runs/search":
            return self._search(body)
        if path == f"{API}/runs/log-batch":
            self.runs[body["run_id"]]["tags"] |= {tag["key"]: tag["value"] for tag in body["tags"]}
        if path == f"{API}/runs/update":
            self.runs[body["run_id"]] |= {"status": body["status"], "end_time": body["end_time"]}
        if path == f"{API}/runs/delete":
            self.runs[body["run_id"]]["deleted"] = True
        if path == f"{API}/model-versions/search":
            return {"model_versions": [v for v in self.versions if query["filter"] == f"run_id = '{v['run_id']}'"]}
        if path == f"{API}/model-versions/delete":
            self.versions = [v for v in self.versions if (v["name"], v["version"]) != (body["name"], body["version"])]
        if path == f"{API}/logged-models/search":
            found = [name for name, run in self.models.items() if body["filter"] == f"source_run_id = '{run}'"]
            return {"models": [{"info": {"model_id": name}} for name in found]}
        if method == "DELETE" and "/logged-models/" in path:
            del self.models[path.rpartition("/")[2]]
        return {}

    def _search(self, body: dict[str, Any]) -> dict[str, Any]:
        experiment_id = re.search(r"tags\.`rung\.experiment_id` = '(\w+)'", body["filter"])
        assert experiment_id
        assert body["experiment_ids"] == ["7"]
        return {
            "runs": [
                {
                    "info": {"run_id": name, "experiment_id": "7"},
                    "data": {"tags": [{"key": key, "value": value} for key, value in run["tags"].items()]},
                }
                for name, run in self.runs.items()
                if run["tags"]["rung.experiment_id"] == experiment_id[1]
                and not run["deleted"]
                and ("'RUNNING'" not in body["filter"] or run["status"] == "RUNNING")
            ]
        }


@pytest.fixture
def mlflow() -> Mlflow:
    return Mlflow()


@pytest.fixture
def uri(mlflow: Mlflow) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = None if mlflow.away else mlflow.answer(self.command, url.path, query, json.loads(text or "{}"))
            body = json.dumps(answer or {}).encode()
            self.send_response(503 if mlflow.away else 200 if answer is not None else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_DELETE = do_GET  # noqa: N815 - names of http.server

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def settings(settings: Settings, uri: str) -> Settings:
    return Settings(**{**settings.model_dump(), "mlflow_tracking_uri": uri, "keep_files_days": 30})


class Clock:
    def __init__(self) -> None:
        self.now, self.ticks = datetime.now(UTC), 0.0

    def pass_s(self, seconds: float) -> None:
        self.now, self.ticks = self.now + timedelta(seconds=seconds), self.ticks + seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keeper(context: Context, reconciler: Any, clock: Clock) -> Housekeeping:
    reconciler.round()
    return Housekeeping(context, lambda: reconciler.held, lambda: clock.now, lambda: clock.ticks)


def failed(world: Any, mlflow: Mlflow) -> str:
    """An experiment whose driver died after it had begun a parent and three children, and told of two."""
    one = world.started()
    for run_id, trial in (("parent", None), ("done", 0), ("open", 1), ("untold", 2)):
        mlflow.add(run_id, one, trial)
    done = world.line(0, state="EARLY_STOPPED", stop_reason="rung 1", ended_at=1_700_000_009, mlflow_run_id="done")
    lines = [done, world.line(1, mlflow_run_id="open")]
    ids = {"mlflow_experiment_id": "7", "mlflow_run_id": "parent"}
    world.beat(one, {"phase": "failed", "reason": "the data is gone", "trials": lines, **ids})
    assert world.show(one)["state"] == "ERROR"
    return str(one)


def test_runs_that_the_driver_left_open_are_ended(world: Any, mlflow: Mlflow, keeper: Housekeeping) -> None:
    failed(world, mlflow)
    keeper.turn()
    said = {name: (run["status"], run["tags"]) for name, run in mlflow.runs.items()}
    assert {name: status for name, (status, _) in said.items()} == {
        "parent": "FAILED",
        "done": "FINISHED",
        "open": "FAILED",
        "untold": "KILLED",
    }
    assert (said["parent"][1]["rung.state"], said["parent"][1]["rung.reason"]) == ("FAILED", "the data is gone")
    assert (said["done"][1]["rung.trial_state"], said["done"][1]["rung.stop_reason"]) == ("EARLY_STOPPED", "rung 1")
    assert mlflow.runs["done"]["end_time"] == 1_700_000_009_000
    assert said["open"][1]["rung.trial_state"] == "ERROR"
    mlflow.requests.clear()
    keeper.turn()
    assert mlflow.requests == ["POST /runs/search"], "it looks whether there are more"
    keeper.turn()
    assert mlflow.requests == ["POST /runs/search"], "and then never again"


def test_what_the_driver_closed_itself_costs_one_request(world: Any, mlflow: Mlflow, keeper: Housekeeping) -> None:
    one = world.started()
    mlflow.add("parent", one, None, "FINISHED")
    world.beat(one, {"phase": "completed", "mlflow_experiment_id": "7", "mlflow_run_id": "parent"})
    for _ in range(3):
        keeper.turn()
    assert mlflow.requests == ["POST /runs/search"]
    assert mlflow.runs["parent"]["status"] == "FINISHED"


def test_while_mlflow_is_away_it_is_asked_now_and_then(
    world: Any, mlflow: Mlflow, keeper: Housekeeping, clock: Clock
) -> None:
    failed(world, mlflow)
    mlflow.away = True
    keeper.turn()
    mlflow.away = False
    keeper.turn()
    assert mlflow.runs["parent"]["status"] == "RUNNING", "not asked again at once"
    clock.pass_s(11)
    keeper.turn()
    assert mlflow.runs["parent"]["status"] == "FAILED"


def test_an_experiment_that_goes_on_is_closed_anew(world: Any, mlflow: Mlflow, keeper: Housekeeping) -> None:
    one = failed(world, mlflow)
    keeper.turn()
    keeper.turn()
    world.client.post(f"/api/v1/experiments/{one}/resume")
    world.reconciler.round()
    mlflow.runs["parent"]["status"] = "RUNNING"
    keeper.turn()
    assert mlflow.runs["parent"]["status"] == "RUNNING"
    world.beat(one, {"phase": "failed"}, attempt=2)
    keeper.turn()
    assert mlflow.runs["parent"]["status"] == "FAILED"


def test_without_the_lease_nothing_is_done(world: Any, mlflow: Mlflow, keeper: Housekeeping, context: Context) -> None:
    failed(world, mlflow)
    mlflow.requests.clear()
    Housekeeping(context, lambda: None).turn()
    assert mlflow.requests == []


def test_a_deletion_is_complete_and_spares_the_others(
    world: Any, mlflow: Mlflow, keeper: Housekeeping, context: Context, settings: Settings, clock: Clock
) -> None:
    one, other = failed(world, mlflow), world.started()
    mlflow.add("another", other, None)
    mlflow.versions = [{"name": "m", "version": "1", "run_id": "parent"}, {"name": "m", "version": "2", "run_id": "x"}]
    mlflow.models = {"m-1": "parent", "m-2": "another"}
    for folder in (one, other):
        (settings.storage_root / folder / "trials" / "00000").mkdir(parents=True)
    mlflow.away = True
    assert world.client.delete(f"/api/v1/experiments/{one}").status_code in {200, 202}
    job = f"exp-{one}-a{world.show(one)['attempt']}"
    world.launcher.jobs[job] = JobStatus.RUNNING  # it draws its pictures
    keeper.turn()
    assert world.launcher.stopped[-1] == job
    assert (settings.storage_root / one).exists()
    world.launcher.jobs[job] = JobStatus.SUCCEEDED
    keeper.turn()
    view = world.show(one)
    assert view["state"] == "DELETING"
    assert "being deleted; MLflow at" in view["reason"]
    assert "answers 503" in view["reason"]
    mlflow.away = False
    clock.pass_s(11)
    keeper.turn()
    assert world.client.get(f"/api/v1/experiments/{one}").status_code == 404
    assert [path.name for path in settings.storage_root.iterdir()] == [other]
    assert [name for name, run in mlflow.runs.items() if not run["deleted"]] == ["another"]
    assert (mlflow.versions, mlflow.models) == ([{"name": "m", "version": "2", "run_id": "x"}], {"m-2": "another"})
    with context.database.read() as session:
        assert one not in repr([session.execute(select(table)).all() for table in Base.metadata.sorted_tables])
    assert world.show(other)["state"] == "RUNNING"


def test_an_experiment_that_never_ran_needs_no_mlflow_to_go(world: Any, mlflow: Mlflow, keeper: Housekeeping) -> None:
    one = world.submit()
    world.cancel(one)
    world.client.delete(f"/api/v1/experiments/{one}")
    mlflow.away = True
    keeper.turn()
    assert world.client.get(f"/api/v1/experiments/{one}").status_code == 404


def test_files_of_long_ended_experiments_go_and_their_story_stays(
    world: Any, mlflow: Mlflow, keeper: Housekeeping, settings: Settings, clock: Clock
) -> None:
    ended, running = failed(world, mlflow), world.started()
    for one in (ended, running):
        for name in ("journal.jsonl", "model/MLmodel", "trials/00000/last.pt", "trials/00000/trial.log"):
            path = settings.storage_root / one / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
    clock.pass_s(29 * 86400)
    keeper.turn()
    assert _files(settings.storage_root / ended) == _files(settings.storage_root / running)
    clock.pass_s(2 * 86400)
    keeper.turn()
    assert _files(settings.storage_root / ended) == {"journal.jsonl", "model/MLmodel"}
    assert len(_files(settings.storage_root / running)) == 4


def test_keys_of_submissions_are_kept_for_a_day(
    world: Any, keeper: Housekeeping, context: Context, clock: Clock
) -> None:
    one = world.submit()
    with context.database.write() as session:
        for key, age in (("old", 25), ("new", 23)):
            at = clock.now - timedelta(hours=age)
            session.add(IdempotencyKey(key=key, body_sha256="", experiment_id=one, created_at=at))
    keeper.turn()
    with context.database.read() as session:
        assert list(session.scalars(select(IdempotencyKey.key))) == ["new"]
        assert session.scalar(select(func.count()).select_from(IdempotencyKey)) == 1


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
