"""Servers that answer, but not as Ray or MLflow do: with other documents, without end, or too slowly."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from search_spaces import request_limits
from search_spaces.protocol import METRICS
from service.adapters import mlflow_client
from service.adapters.cluster_cache import UNREACHABLE
from service.adapters.launcher import ClusterUnreachableError
from service.adapters.launchers.ray_jobs import RayLauncher
from service.adapters.mlflow_client import LoggedModel, MlflowClient, Run
from service.client import Client
from service.client.transport import NotRungError, UnreachableError
from service.contract.errors import UnavailableError
from service.scheduling.reconciler import Reconciler
from service.settings import Settings
from tests.support.contracts.launcher import launch_config
from tests.support.handlers import QuietHandler, handling
from tests.support.hostile_servers import Slow, endless_server, slow_server
from tests.support.ray_requests import every_request

VERSION = b'{"ray_version": "2.60.0"}'
NODE = {"state": "ALIVE", "node_id": "a", "resources_total": {"CPU": 1}}
ODD = [b"null", b"[]", b"3", b'"x"', b"true", b"<html>login</html>", b"[" * 200_000, b"\xff", b""]
NODES = [
    [NODE | change]
    for change in (
        {"resources_total": [1]},
        {"resources_total": {"CPU": "x"}},
        {"resources_total": {"GPU": -1}},
        {"resources_total": {"CPU": 10**400}},
    )
] + [[{"state": "ALIVE"}], ["x"], 3, None]
PATIENT_S = 30.0


class Answering:
    """A server whose answers a test decides. `asked` are the requests so far."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.answers: dict[str, bytes] = {"/api/version": VERSION}
        self.other = b"{}"


@pytest.fixture
def server() -> Iterator[Answering]:
    found = Answering()

    class Handler(QuietHandler):
        def respond(self) -> None:
            path = self.path.partition("?")[0]
            found.asked.append(path)
            self.answer(200, found.answers.get(path, found.other))

    with handling(Handler) as found.url:
        yield found


def ray_of(url: str, timeout_s: float = PATIENT_S) -> RayLauncher:
    return RayLauncher(Settings(ray_dashboard_url=url, ray_timeout_s=timeout_s, ray_submit_timeout_s=timeout_s))


@contextlib.contextmanager
def mlflow_of(url: str, timeout_s: float = PATIENT_S) -> Iterator[MlflowClient]:
    with closing(MlflowClient(Settings(mlflow_tracking_uri=url, mlflow_timeout_s=timeout_s))) as found:
        yield found


@pytest.mark.parametrize("body", ODD)
def test_whatever_ray_answers_instead_of_an_object_is_an_outage(server: Answering, tmp_path: Path, body: bytes) -> None:
    server.other = body
    ray, launch = ray_of(server.url), launch_config(tmp_path)
    requests = every_request(ray, launch)
    for request in requests:
        with pytest.raises(ClusterUnreachableError, match="does not answer"):
            request()
    assert len([path for path in server.asked if path != "/api/version"]) == len(requests)
    server.answers["/api/version"] = body
    with pytest.raises(ClusterUnreachableError, match="does not answer"):
        ray_of(server.url).cluster()
    assert server.asked[-1] == "/api/version"


@pytest.mark.parametrize("version", [{}, {"ray_version": None}, {"ray_version": [2]}, {"ray_version": "two"}])
def test_an_invalid_version_is_an_outage(server: Answering, version: dict[str, Any]) -> None:
    server.answers["/api/version"] = json.dumps(version).encode()
    with pytest.raises(ClusterUnreachableError, match="does not answer as expected: its version"):
        ray_of(server.url).cluster()


@pytest.mark.parametrize("nodes", NODES)
def test_invalid_nodes_are_an_outage(server: Answering, nodes: Any) -> None:
    server.other = json.dumps({"data": {"result": {"result": nodes}, "summary": nodes}}).encode()
    ray = ray_of(server.url)
    for ask in (ray.cluster, ray.raylets):
        with pytest.raises(ClusterUnreachableError, match="does not answer as expected: its list of"):
            ask()


@pytest.mark.parametrize("amount", ["1e400", "1e308", "NaN"])
def test_a_node_of_a_size_that_none_has_is_an_outage(server: Answering, amount: str) -> None:
    text = json.dumps({"data": {"result": {"result": [NODE]}}}).replace('"CPU": 1', f'"CPU": {amount}')
    server.other = text.encode()
    with pytest.raises(ClusterUnreachableError, match="must be between 0 and"):
        ray_of(server.url).cluster()


@pytest.mark.parametrize("body", [*ODD, b'{"detail": "welcome"}', b'{"experiments": {}}'])
def test_mlflow_is_available_only_if_it_answers_as_mlflow_does(server: Answering, body: bytes) -> None:
    server.other = body
    with mlflow_of(server.url) as mlflow:
        with pytest.raises(UnavailableError, match="did not answer as MLflow does"):
            mlflow.ping()
        assert len(server.asked) == 1
        for answer in (b"{}", b'{"experiments": [], "next_page_token": "x"}'):
            server.other = answer
            mlflow.ping()


#: What is asked of MLflow, and the list in its answer.
LISTS: list[tuple[Callable[[MlflowClient], Any], str]] = [
    (lambda mlflow: mlflow.curves("x", METRICS[:1]), "metrics"),
    (lambda mlflow: mlflow.find_runs(["1"], ["x"]), "runs"),
    (lambda mlflow: mlflow.versions_of_run("x"), "model_versions"),
    (lambda mlflow: mlflow.logged_models(Run("x", "1", "")), "models"),
]


@pytest.mark.parametrize(("ask", "name"), LISTS)
@pytest.mark.parametrize("items", [3, [3], [None], ["x"], [[]], [{}], [{"info": 3}], [{"timestamp": 10**30}]])
def test_items_that_are_not_of_mlflow_are_an_error(
    server: Answering, ask: Callable[[MlflowClient], Any], name: str, items: Any
) -> None:
    server.other = json.dumps({name: items}).encode()
    with (
        mlflow_of(server.url) as mlflow,
        pytest.raises(UnavailableError, match=f"does not answer as MLflow does: {name}"),
    ):
        ask(mlflow)
    assert len(server.asked) == 1


def test_pages_of_mlflow_that_never_end_are_an_error(server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_client, "MAX_PAGES", 3)
    server.other = b'{"metrics": [], "next_page_token": "x"}'
    with mlflow_of(server.url) as mlflow, pytest.raises(UnavailableError, match="more than 3 pages"):
        mlflow.curves("x", METRICS[:1])
    assert len(server.asked) == 3


def test_identifiers_are_text_whatever_mlflow_answers(server: Answering) -> None:
    server.other = json.dumps({"models": [{"info": {"model_id": 1, "artifact_uri": 2}}]}).encode()
    with mlflow_of(server.url) as mlflow:
        assert mlflow.logged_models(Run("x", "1", "")) == [LoggedModel("1", "2")]


@pytest.fixture(params=[False, True], ids=["body", "headers"])
def slow(request: pytest.FixtureRequest) -> Iterator[Slow]:
    with slow_server(request.param) as found:
        yield found


def test_an_answer_that_trickles_in_is_abandoned_at_the_deadline(slow: Slow) -> None:
    with pytest.raises(ClusterUnreachableError, match="not complete"):
        ray_of(slow.url, 0.3).cluster()
    assert slow.attempts == 1
    with mlflow_of(slow.url, 0.3) as mlflow:
        with pytest.raises(UnavailableError, match="not complete"):
            mlflow.ping()
        assert slow.attempts == 2
        with Client(slow.url, timeout_s=0.3) as rung, pytest.raises(UnreachableError, match="did not answer in time"):
            rung.get("x")
        assert slow.attempts == 3
        slow.ended.set()


def test_no_more_is_asked_while_too_many_requests_have_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "MAX_ABANDONED", 2)
    limits, release, started = request_limits.RequestLimits(0.05), threading.Event(), []

    def ask(_read: Any) -> str:
        started.append(1)
        release.wait()
        return "done"

    for _ in range(4):
        with pytest.raises(TimeoutError):
            limits.run(ask)
    assert len(started) == 2
    release.set()
    answer = ""
    while not answer:  # until the two have ended
        with contextlib.suppress(TimeoutError):
            answer = limits.run(lambda _read: "works", PATIENT_S)


@pytest.mark.parametrize("chunked", [False, True])
def test_no_more_of_an_endless_answer_is_read_than_any_answer_has(
    monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    monkeypatch.setattr(request_limits, "MAX_ANSWER_BYTES", 1_000_000)
    with endless_server(chunked) as endless:
        with pytest.raises(ClusterUnreachableError, match="longer than 1000000 bytes"):
            ray_of(endless.url).cluster()
        with mlflow_of(endless.url) as mlflow, pytest.raises(UnavailableError, match="longer than 1000000 bytes"):
            mlflow.ping()
        with (
            Client(endless.url, timeout_s=PATIENT_S) as rung,
            pytest.raises(NotRungError, match="longer than 1000000 bytes"),
        ):
            rung.get("x")
    assert len(endless.sent) == 3
    assert max(endless.sent) < 30_000_000, "no more than fits into the buffers of two sockets"


def test_compressed_answers_are_read(server: Answering) -> None:
    """What counts is their size once it is decoded."""

    class Handler(QuietHandler):
        def respond(self) -> None:
            body = gzip.compress(b'{"ray_version": "2.60.0", "logs": "x"}')
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with handling(Handler) as url, mlflow_of(url) as mlflow:
        assert ray_of(url).logs("x") == "x"
        with pytest.raises(UnavailableError, match=r'MLflow does: \{"ray_version"'):
            mlflow.ping()


class TestOddRay:
    @pytest.fixture
    def launcher(self, server: Answering) -> RayLauncher:
        return ray_of(server.url)

    @pytest.mark.parametrize("body", [b"null", b"[]", b"{}"])
    def test_is_named_as_every_other_outage_and_the_queue_is_kept(
        self, client: httpx.Client, reconciler: Reconciler, server: Answering, body: bytes
    ) -> None:
        server.other = body
        submitted = client.post("/api/v1/experiments", json={"name": "x"}).json()
        reconciler.reconcile_once()
        assert reconciler.held is not None, "the cleanup works only while it is"
        assert client.get("/readyz").json()["ray"]["why"] == UNREACHABLE
        shown = client.get(f"/api/v1/experiments/{submitted['id']}").json()
        assert (shown["state"], shown["reason"]) == ("QUEUED", f"waiting for slots: {UNREACHABLE}")
