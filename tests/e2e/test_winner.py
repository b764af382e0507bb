"""The winner's evaluation on a real Ray: its process dies, runs out of memory, waits for a slot or must stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from search_spaces.protocol import ErrorKind, LaunchConfig
from workers.failures.classification import NodeError, TrialError, classified
from workers.nodes import Nodes, this_node
from workers.winner.evaluation import EvaluationFailedError, StopRequestedError, WinnerEvaluation, WinnerScore

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SCORE = [0.5, 0.75]
ANSWERS = "answers.json"
FAILED = "EvaluationFailedError: the winner could not be evaluated, "


@pytest.mark.usefixtures("for_local_ray")
def test_an_evaluation_is_retried_after_failures_that_may_be_temporary(tmp_path: Path) -> None:
    """Runs in a separate process with a Ray of its own: its processes import nothing that they do not need.

    Each case gives its answer and the number of evaluations that were started.

    The answers are in a file, because Ray prints to the output of the process when others are killed.
    """
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-5000:]
    answers = json.loads((tmp_path / ANSWERS).read_text())
    assert answers["evaluated in the end"] == [SCORE, 3]
    answer, started = answers["lost too often"]
    assert answer.startswith(f"{FAILED}LOST after 1 restart: ")
    assert started == 2
    assert answers["out of memory"] == [f"{FAILED}OUT_OF_MEMORY after 0 restarts: MemoryError: too large", 1]
    assert answers["its own error"] == ["TrialError: [CODE] ValueError: no such layer", 1]
    assert answers["lost while it waited"] == [SCORE, 1]
    answer, started = answers["lost while it waited and again"]
    assert answer.startswith(f"{FAILED}LOST after 0 ")
    assert started == 1
    reason = "cannot load the data set: digits"
    assert answers["the only node cannot be used"] == [f"TrialError: [DATA] node head {reason}", 1]
    assert answers["one of two nodes cannot be used"] == [SCORE, 2]
    assert answers["asked to stop while it works"] == ["StopRequestedError: ", 1]
    assert answers["asked to stop while it waits for a GPU"] == ["StopRequestedError: ", 0]


class ScriptedEvaluator:
    """Records its process and each evaluation in `folder`, and behaves as the script says for that evaluation."""

    def __init__(self, folder: Path, script: list[str]) -> None:
        self._folder, self._script = folder, script
        (folder / f"{os.getpid()}.pid").touch()

    def evaluate(self, *_: Any) -> WinnerScore:
        started = len(list(self._folder.glob("*.started")))
        (self._folder / f"{started}.started").touch()
        match self._script[started]:
            case "dies":
                os._exit(1)
            case "memory":
                raise MemoryError("too large")
            case "code":
                raise ValueError("no such layer")
            case "node":
                with classified():
                    node, name = this_node()
                    raise NodeError(f"node {name} cannot load the data set: digits", node, ErrorKind.DATA)
            case "hangs":
                time.sleep(600)
        loss, accuracy = SCORE
        return WinnerScore(loss, accuracy)


def main(folder: Path) -> dict[str, Any]:
    cluster: Any = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False, "node_name": "head"})
    ray.init(cluster.address, log_to_driver=False)
    answers: dict[str, Any] = {}
    launch = LaunchConfig(
        experiment_id="x", attempt=1, attempt_id="exp-x-a1", service_url="http://nowhere", token="t", slots=1,
        mlflow_tracking_uri="http://nowhere", storage=str(folder), data_root=str(folder), cache_root=str(folder),
    )  # fmt: skip

    def evaluate(
        name: str, script: list[str], max_restarts: int, gpus: float = 0.0, stop: bool = False, killed: bool = False
    ) -> None:
        notes = folder / name
        notes.mkdir()

        class Scripted(ScriptedEvaluator):
            def __init__(self) -> None:
                super().__init__(notes, script)

        evaluation = WinnerEvaluation({"CPU": 1.0, "GPU": gpus}, Nodes(launch), Scripted)
        if killed:
            evaluation.prepare()
            while not (pids := list(notes.glob("*.pid"))):
                time.sleep(0.02)
            os.kill(int(pids[0].stem), signal.SIGKILL)
        try:
            score = evaluation.evaluate(
                0,
                1,
                launch,
                max_restarts=max_restarts,
                stop_requested=lambda: stop and (gpus > 0 or any(notes.glob("*.started"))),
            )
            answer: Any = [score.loss, score.accuracy]
        except (EvaluationFailedError, StopRequestedError, TrialError) as error:
            answer = f"{type(error).__name__}: {error}"
        answers[name] = [answer, len(list(notes.glob("*.started")))]

    evaluate("evaluated in the end", ["dies", "memory", "works"], max_restarts=2)
    evaluate("lost too often", ["dies", "dies"], max_restarts=1)
    evaluate("out of memory", ["memory"], max_restarts=0)
    evaluate("its own error", ["code"], max_restarts=9)
    evaluate("lost while it waited", ["works"], max_restarts=0, killed=True)
    evaluate("lost while it waited and again", ["dies"], max_restarts=0, killed=True)
    evaluate("asked to stop while it works", ["hangs"], max_restarts=9, stop=True)
    evaluate("asked to stop while it waits for a GPU", [], max_restarts=9, gpus=0.5, stop=True)
    evaluate("the only node cannot be used", ["node"], max_restarts=9)
    cluster.add_node(num_cpus=1)
    evaluate("one of two nodes cannot be used", ["node", "works"], max_restarts=0)
    return answers


if __name__ == "__main__":
    (Path(sys.argv[1]) / ANSWERS).write_text(json.dumps(main(Path(sys.argv[1]))))
