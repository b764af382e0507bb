"""`rung doctor`: every part has a line, a failure says what to do, and nothing that hangs keeps it from ending."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
from typer.testing import CliRunner

from search_spaces.node_report import MARK, NodeReport, NodeReports
from service.checkup import examinations, nodes, parts
from service.cli import app
from service.context import AppContext
from service.contract.checkup import Checkup, Finding, Part, Verdict, clock_difference_s, free_space
from service.domain.cluster import Cluster, Node
from service.settings import Settings
from tests.support.memory_launcher import MemoryLauncher
from tests.support.world import World

GIB = 2**30


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    (tmp_path / "data").mkdir()
    return settings


@pytest.fixture(autouse=True)
def _there_is_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.contract.checkup.FULL_BYTES", 1)
    monkeypatch.setattr("service.contract.checkup.LOW_BYTES", 2)


class Doctor:
    def __init__(self, client: httpx.Client, home: Path) -> None:
        self._runner = CliRunner(env={"RUNG_URL": str(client.base_url), "RUNG_HOME": str(home), "COLUMNS": "80"})

    def findings(self, *options: str, status: int) -> dict[str, list[dict[str, str]]]:
        result = self._runner.invoke(app, ["doctor", "--json", *options])
        assert result.exit_code == status, result.output
        found: dict[str, list[dict[str, str]]] = {}
        for one in json.loads(result.stdout)["findings"]:
            found.setdefault(one["part"], []).append(one)
        return found

    def text(self, *options: str) -> str:
        return self._runner.invoke(app, ["doctor", *options]).output


@pytest.fixture
def doctor(client: httpx.Client, tmp_path: Path) -> Doctor:
    return Doctor(client, tmp_path)


@pytest.fixture
def answering(launcher: MemoryLauncher) -> None:
    report(launcher, node())


def node(name: str = "head", **more: Any) -> NodeReport:
    versions = {"rung": version("rung"), "torch": "2.14.1", "python": "3.11.9"}
    return NodeReport.model_validate(
        {"name": name, "at": 5, "asked_at": 1, "answered_at": 9, "versions": versions, **more}
    )


def report(launcher: MemoryLauncher, *found: NodeReport) -> None:
    launcher.answer = f"a warning of Ray\n{MARK}{NodeReports(nodes=list(found)).model_dump_json()}\n"


def worst(found: list[dict[str, str]]) -> str:
    return max((one["verdict"] for one in found), key=[*Verdict].index)


@pytest.mark.stores
@pytest.mark.usefixtures("answering")
def test_every_part_of_a_working_installation_is_named(doctor: Doctor, world: World) -> None:
    world.reconciler.reconcile_once()
    found = doctor.findings(status=1)
    assert set(found) == set(Part)
    working = {part for part in found if worst(found[part]) == "ok"}
    assert working == set(Part) - {Part.MLFLOW}, "this test has no MLflow"


@pytest.mark.usefixtures("answering")
def test_what_is_broken_is_a_problem_with_something_to_do(
    doctor: Doctor, world: World, context: AppContext, launcher: MemoryLauncher, settings: Settings
) -> None:
    world.reconciler.reconcile_once()
    Path(settings.storage_root, ".rung-storage").write_text("another\n")
    launcher.unreachable = True
    world.reconciler.reconcile_once()
    found = doctor.findings(status=1)
    for part in (Part.RAY, Part.MLFLOW, Part.STORAGE, Part.NODE):
        broken = [one for one in found[part] if one["verdict"] == "problem"]
        assert broken, part
        assert all(one["remedy"] for one in broken)
    assert worst(found[Part.DATABASE]) == "ok"
    assert "refused" not in json.dumps(found), "errors of other systems are in the log"


def test_a_cluster_without_nodes_and_a_folder_without_data(
    doctor: Doctor, world: World, launcher: MemoryLauncher, settings: Settings
) -> None:
    launcher.nodes = Cluster()
    world.reconciler.reconcile_once()
    settings.data_root.rmdir()
    found = doctor.findings("--no-nodes", status=1)
    assert found[Part.RAY][0]["detail"] == "Ray answers, but has no node"
    assert found[Part.DATA][0]["verdict"] == "ok", "nobody has to create the folder in the home"
    assert "need no folder" in found[Part.DATA][0]["detail"]
    assert Part.NODE not in found


def test_nodes_that_ray_is_asked_for_are_named(doctor: Doctor, world: World, launcher: MemoryLauncher) -> None:
    launcher.nodes = Cluster((Node("head", cpus=2),), possible=(Node("a new one", 8, 4), Node("a new one", 16)))
    world.reconciler.reconcile_once()
    [found] = doctor.findings("--no-nodes", status=1)[Part.RAY]
    assert found["verdict"] == "ok"
    assert found["detail"] == (
        "Ray answers: 1 node with 2 CPUs and 0 GPUs; it is asked for nodes with 8 CPUs and 4 GPUs; 16 CPUs and 0 GPUs"
    )


def test_nobody_schedules(doctor: Doctor, world: World, context: AppContext) -> None:
    world.reconciler.reconcile_once()
    with context.database.write() as session:
        session.connection().exec_driver_sql("UPDATE leases SET expires_at = '2026-01-01 00:00:00'")
    found = doctor.findings("--no-nodes", status=1)
    assert "no replica schedules" in found[Part.SCHEDULING][0]["detail"]


def test_a_part_that_hangs_is_a_problem_and_the_others_are_examined(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def hang(*_: Any) -> NoReturn:
        released.wait()
        raise OSError("the test has ended")

    monkeypatch.setattr(examinations, "PART_S", 0.3)
    monkeypatch.setattr("service.adapters.storage_identity.open_root", hang)
    began = time.monotonic()
    found = doctor.findings("--no-nodes", status=1)
    assert time.monotonic() - began < 20
    released.set()
    assert found[Part.STORAGE][0]["detail"] == "storage did not answer within 0.3 s"
    assert worst(found[Part.DATABASE]) == "ok"


def test_a_service_that_does_not_answer(tmp_path: Path) -> None:
    runner = CliRunner(env={"RUNG_URL": "http://127.0.0.1:9", "RUNG_HOME": str(tmp_path)})
    result = runner.invoke(app, ["doctor", "--json"])
    assert result.exit_code == 3
    found = json.loads(result.stdout)["findings"]
    assert [one["part"] for one in found if one["verdict"] == "problem"] == ["service"]
    assert "machine" in [one["part"] for one in found]


@pytest.mark.usefixtures("answering")
def test_the_text_fits_a_terminal_of_80_columns(doctor: Doctor, world: World, launcher: MemoryLauncher) -> None:
    launcher.unreachable = True
    world.reconciler.reconcile_once()
    lines = doctor.text().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("problem  mlflow ") for line in lines)
    assert any(line.strip().startswith("-> start it, or check RUNG_MLFLOW_TRACKING_URI") for line in lines)
    assert "problem" in lines[-1]


def test_the_nodes_see_a_storage_that_exists_only_for_them(
    world: World, launcher: MemoryLauncher, context: AppContext, settings: Settings
) -> None:
    report(launcher, node())
    [found] = nodes.examine(context)
    [(module, question)] = launcher.commands.values()
    assert module == "workers.checkup"
    assert json.loads(question)["storage"].startswith(f"{settings.storage_root}/{parts.TRIAL_NAME}")
    assert [path.name for path in Path(settings.storage_root).iterdir()] == [".rung-storage"]
    assert found.detail == "node head can train: python 3.11.9, torch 2.14.1; it sees the storage and can write to it"


@pytest.mark.parametrize(
    ("broken", "verdict", "detail"),
    [
        ({"silent": True}, "problem", "node n did not answer within 90 s"),
        ({"problem": "WorkerCrashedError"}, "problem", "node n could not be examined: WorkerCrashedError"),
        ({"versions": {"rung": "0.1"}}, "problem", f"node n has Rung 0.1, but the service has {version('rung')}"),
        ({"versions": {"rung": ""}}, "problem", f"node n has no Rung, but the service has {version('rung')}"),
        ({"storage_problem": "does not see it"}, "problem", "node n does not see it"),
        ({"write_problem": "read-only"}, "problem", "node n cannot write to RUNG_STORAGE_ROOT: read-only"),
        ({"gpus": 2, "usable_gpus": 1}, "problem", "node n has 2 GPUs in Ray, but torch can use 1"),
        ({"has_data_root": False}, "warning", "node n does not see RUNG_DATA_ROOT"),
        ({"at": 70}, "warning", "the clock of node n differs from the head's by at least 61 s"),
        ({"at": -70}, "warning", "the clock of node n differs from the head's by at least 71 s"),
    ],
)
def test_what_a_node_says(broken: dict[str, Any], verdict: str, detail: str) -> None:
    [found] = nodes.findings([node("n", **broken)])
    assert (found.verdict, found.detail) == (verdict, detail)
    assert found.remedy


def test_nodes_with_different_packages() -> None:
    other = {"rung": version("rung"), "torch": "2.13.0", "python": "3.11.9"}
    found = nodes.findings([node("a"), node("b", versions=other)])
    [differing] = [one for one in found if one.verdict is Verdict.WARNING]
    assert differing.detail == "the nodes have different versions of torch: 2.13.0, 2.14.1"


@pytest.mark.parametrize(
    ("theirs", "difference"), [(10, 0), (11.5, 0), (30, 18), (4, -6)], ids=["equal", "between", "ahead", "behind"]
)
def test_clocks_differ_at_least_by_what_cannot_be_the_time_of_the_request(theirs: float, difference: float) -> None:
    assert clock_difference_s(theirs, 10, 12) == difference


def test_another_clock_and_another_version_of_the_service(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*_: Any) -> Checkup:
        return Checkup(at=datetime.now(UTC) + timedelta(hours=1), version="0.1", findings=[])

    monkeypatch.setattr("service.client.Client.checkup", other)
    warnings = [one["detail"] for one in doctor.findings("--no-nodes", status=0)[Part.MACHINE] if one["remedy"]]
    assert warnings[0].endswith("the service 0.1")
    assert "differs from this machine's by at least 3" in warnings[1]


def test_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = [free_space(Part.STORAGE, "it", size, "free some") for size in (GIB // 2, 5 * GIB, 50 * GIB)]
    assert [one.verdict for one in found] == ["problem", "warning", "ok"]
    assert isinstance(found[0], Finding)
    assert found[1].detail == "it has 5.0 GiB free"
