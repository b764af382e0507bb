"""The runs in MLflow and the checkpoints of experiments that have ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.adapters.launcher import JobStatus
from service.cleanup.worker import CleanupWorker
from service.context import AppContext
from service.settings import Settings
from service.store.models import Experiment
from tests.support.clock import Clock
from tests.support.mlflow_server import Mlflow, failed_experiment, record_runs
from tests.support.world import World

pytestmark = pytest.mark.stores(slow=True)


def test_runs_that_the_driver_left_open_are_ended(world: World, mlflow: Mlflow, keeper: CleanupWorker) -> None:
    failed_experiment(world, mlflow)
    mlflow.runs["parent"]["status"] = "SCHEDULED"  # it was paused before
    keeper.run_once()
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
    keeper.run_once()
    assert mlflow.requests == ["POST /runs/search"], "it looks whether there are more"
    keeper.run_once()
    assert mlflow.requests == ["POST /runs/search"], "and then never again"


def test_runs_that_the_driver_ended_cost_one_request(world: World, mlflow: Mlflow, keeper: CleanupWorker) -> None:
    one = world.started()
    mlflow.add("parent", one, None, "FINISHED")
    world.beat(one, {"phase": "completed", "mlflow_experiment_id": "7", "mlflow_run_id": "parent"})
    for _ in range(3):
        keeper.run_once()
    assert mlflow.requests == ["POST /runs/search"]
    assert mlflow.runs["parent"]["status"] == "FINISHED"


def test_an_unavailable_mlflow_is_asked_again_after_a_pause(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, clock: Clock
) -> None:
    failed_experiment(world, mlflow)
    mlflow.unavailable = True
    keeper.run_once()
    mlflow.unavailable = False
    keeper.run_once()
    assert mlflow.runs["parent"]["status"] == "RUNNING", "not asked again at once"
    clock.sleep(11)
    keeper.run_once()
    assert mlflow.runs["parent"]["status"] == "FAILED"


def test_the_runs_of_a_resumed_experiment_are_ended_again(world: World, mlflow: Mlflow, keeper: CleanupWorker) -> None:
    one = failed_experiment(world, mlflow)
    keeper.run_once()
    keeper.run_once()
    world.client.post(f"/api/v1/experiments/{one}/resume")
    world.reconciler.reconcile_once()
    mlflow.runs["parent"]["status"] = "RUNNING"
    keeper.run_once()
    assert mlflow.runs["parent"]["status"] == "RUNNING"
    world.beat(one, {"phase": "failed"}, attempt=2)
    keeper.run_once()
    assert mlflow.runs["parent"]["status"] == "FAILED"


def test_without_the_lease_nothing_is_done(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, context: AppContext
) -> None:
    failed_experiment(world, mlflow)
    mlflow.requests.clear()
    CleanupWorker(context, lambda: None).run_once()
    assert mlflow.requests == []


@pytest.mark.parametrize("said", [b"<html>login</html>", b'{"runs": [{}]}'])
def test_an_invalid_answer_of_mlflow_does_not_block_other_experiments(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, clock: Clock, said: bytes
) -> None:
    odd, good = world.ended("failed"), failed_experiment(world, mlflow)
    record_runs(world, odd, "odd-run", {})
    mlflow.overrides = {"odd-run": said}
    keeper.run_once()
    assert mlflow.runs["parent"]["status"] == "FAILED"
    assert world.show(odd)["reason"] == "it failed", "what keeps MLflow open is no concern of a person"
    world.launcher.jobs.clear()
    world.client.delete(f"/api/v1/experiments/{odd}")
    clock.sleep(11)
    keeper.run_once()
    assert world.show(odd)["reason"] == "being deleted; MLflow is unavailable; the log of the service says why"
    mlflow.overrides = {}
    clock.sleep(21)
    keeper.run_once()
    assert [item["id"] for item in world.client.get("/api/v1/experiments").json()["items"]] == [good]


@pytest.mark.parametrize("fails_again", [False, True])
def test_the_runs_of_an_experiment_that_is_resumed_meanwhile_stay_open(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, fails_again: bool
) -> None:
    one = failed_experiment(world, mlflow)

    def resume() -> None:
        world.post(one, "resume")
        if fails_again:
            world.reconciler.reconcile_once()
            world.beat(one, {"phase": "failed"}, attempt=2)

    mlflow.on_update = resume
    keeper.run_once()
    assert world.show(one)["state"] == ("ERROR" if fails_again else "QUEUED")
    assert sorted(run["status"] for run in mlflow.runs.values()).count("RUNNING") == len(mlflow.runs) - 1


def test_a_run_that_only_has_the_tags_of_an_experiment_is_left_alone(
    world: World, mlflow: Mlflow, keeper: CleanupWorker
) -> None:
    one = failed_experiment(world, mlflow)
    mlflow.add("stranger", one, 1)
    keeper.run_once()
    keeper.run_once()
    assert (mlflow.runs["stranger"]["status"], mlflow.runs["stranger"]["deleted"]) == ("RUNNING", False)
    assert [name for name, run in mlflow.runs.items() if run["status"] == "RUNNING"] == ["stranger"]


def test_a_run_without_tags_is_ended(world: World, mlflow: Mlflow, keeper: CleanupWorker) -> None:
    failed_experiment(world, mlflow)
    mlflow.runs["open"]["tags"].clear()
    keeper.run_once()
    assert mlflow.runs["open"]["status"] == "FAILED"


def test_the_run_that_replaced_a_reported_one_is_ended(world: World, mlflow: Mlflow, keeper: CleanupWorker) -> None:
    """The driver was lost before it could report the new one."""
    one = failed_experiment(world, mlflow)
    mlflow.runs["open"]["deleted"] = True
    mlflow.add("newer", one, 1)
    record_runs(world, one, "parent", {1: "newer"})
    keeper.run_once()
    assert (mlflow.runs["newer"]["status"], mlflow.runs["newer"]["deleted"]) == ("FAILED", False)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"runs": {"x": "y"}}', "[" * 200_000])
def test_unreadable_records_of_a_driver_leave_what_it_reported(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, settings: Settings, content: str
) -> None:
    one = failed_experiment(world, mlflow)
    (Path(settings.storage_root) / one / "tracking.json").write_text(content)
    keeper.run_once()
    assert [name for name, run in mlflow.runs.items() if run["status"] == "RUNNING"] == ["untold"]


def test_a_reported_id_is_no_part_of_a_filter(world: World, mlflow: Mlflow, keeper: CleanupWorker) -> None:
    one = world.started()
    mlflow.add("other", "another", None)
    line = world.line(0, mlflow_run_id="x') OR attributes.run_id IN ('other")
    world.beat(one, {"phase": "failed", "trials": [line], "mlflow_experiment_id": "7"})
    keeper.run_once()
    assert (mlflow.requests, mlflow.runs["other"]["status"]) == ([], "RUNNING")


@pytest.mark.parametrize("length", [5000, 5001])
def test_a_reason_is_cut_to_the_length_that_mlflow_accepts(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, length: int
) -> None:
    one = world.started()
    mlflow.add("parent", one, None)
    world.beat(one, {"phase": "failed", "reason": "x" * length, "mlflow_experiment_id": "7", "mlflow_run_id": "parent"})
    keeper.run_once()
    assert mlflow.runs["parent"]["status"] == "FAILED"
    assert mlflow.runs["parent"]["tags"]["rung.reason"] == "x" * 5000


def test_a_success_resets_the_delay_after_failures(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, clock: Clock
) -> None:
    failed_experiment(world, mlflow)
    mlflow.overrides = {"parent": b"<html>"}
    for seconds in (11, 21, 41):
        keeper.run_once()
        clock.sleep(seconds)
    mlflow.overrides = {}
    keeper.run_once()
    assert mlflow.runs["parent"]["status"] == "FAILED"
    mlflow.runs["parent"]["status"] = "RUNNING"
    mlflow.overrides = {"parent": b"<html>"}
    keeper.run_once()
    mlflow.overrides = {}
    clock.sleep(11)
    keeper.run_once()
    assert mlflow.runs["parent"]["status"] == "FAILED"


def test_a_worker_that_is_asked_to_stop_starts_no_other_experiment(
    world: World, mlflow: Mlflow, keeper: CleanupWorker
) -> None:
    failed_experiment(world, mlflow)
    other = world.started()
    mlflow.add("another", other, None)
    record_runs(world, other, "another", {})
    world.beat(other, {"phase": "failed"})
    mlflow.on_update = keeper.stop
    keeper.run_once()
    assert (mlflow.runs["parent"]["status"], mlflow.runs["another"]["status"]) == ("FAILED", "RUNNING")


def test_the_checkpoint_policy_is_applied_to_canceled_experiments(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, settings: Settings, clock: Clock
) -> None:
    def stopped(**spec: Any) -> str:
        one = str(world.started(**spec))
        lines = [world.line(number, best_value=0.5 + number / 10) for number in (0, 1)]
        world.post(one, "pause")
        world.beat(one, {"phase": "paused", "trials": lines})
        for name in ("00000/last.pt", "00000/best.pt", "00001/last.pt", "00001/previous.pt", "00001/best.pt"):
            path = Path(settings.storage_root) / one / "trials" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        world.launcher.jobs[f"exp-{one}-a1"] = JobStatus.SUCCEEDED
        return one

    canceled, paused, last = stopped(), stopped(), stopped(checkpoints="last")
    world.cancel(canceled)
    world.cancel(last)
    fork = world.post(canceled, "continue").json()["id"]
    world.launcher.jobs[f"exp-{last}-a1"] = JobStatus.RUNNING
    keeper.run_once()
    for one in (canceled, paused, last):
        assert len(_files(Path(settings.storage_root) / one)) == 5, "its driver or a continuation must still read them"
    world.cancel(fork)
    world.launcher.jobs[f"exp-{last}-a1"] = JobStatus.STOPPED
    clock.sleep(11)
    keeper.run_once()
    assert _files(Path(settings.storage_root) / canceled) == {"trials/00001/best.pt"}
    assert _files(Path(settings.storage_root) / last) == {f"trials/0000{n}/last.pt" for n in (0, 1)} | {
        "trials/00001/best.pt"
    }
    assert len(_files(Path(settings.storage_root) / paused)) == 5


def test_a_canceled_experiment_whose_checkpoint_policy_cannot_be_read_keeps_all(
    world: World, mlflow: Mlflow, keeper: CleanupWorker, settings: Settings, context: AppContext
) -> None:
    one = world.started()
    world.cancel(one)
    world.beat(one, {"phase": "canceled"})
    world.launcher.jobs[f"exp-{one}-a1"] = JobStatus.SUCCEEDED
    checkpoint = Path(settings.storage_root) / one / "trials" / "00000" / "last.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    with context.database.write() as session:
        row = session.get_one(Experiment, one)
        row.spec = row.spec | {"checkpoints": "each"}
    keeper.run_once()
    assert checkpoint.exists()
    with context.database.read() as session:
        assert session.get_one(Experiment, one).mlflow_closed


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.glob("trials/*/*")}
