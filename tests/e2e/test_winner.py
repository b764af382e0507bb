"""The finalist on a real Ray: its process is lost, runs out of memory, waits for what nobody gives, or is let be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray

from workers.search import winner
from workers.search.winner import EvaluationFailedError, StopRequestedError, WinnerEvaluation

pytestmark = pytest.mark.e2e

NOWHERE = Path("/nowhere")


def test_what_becomes_of_the_finalist(as_a_driver: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], env=as_a_driver, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-5000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["measured at last"] == [[0.5, 0.75], 3]
    said, begun = told["lost too often"]
    assert said.startswith("EvaluationFailedError: the winner could not be measured, LOST after 1 restart: ")
    assert begun == 2
    assert told["without memory"] == [
        "EvaluationFailedError: the winner could not be measured, "
        "OUT_OF_MEMORY after 0 restarts: MemoryError: too large",
        1,
    ]
    said, begun = told["its own mistake"]
    assert (said.splitlines()[-1], begun) == ("ValueError: no such layer", 1)
    assert told["lost while it waited"] == [[0.5, 0.75], 1]
    assert told["lost ahead of time and again"][1] == 1
    assert told["lost ahead of time and again"][0].startswith(
        "EvaluationFailedError: the winner could not be measured, LOST after 0 "
    )
    assert told["ordered while it works"] == ["StopRequestedError: ", 1]
    assert told["ordered while it waits for a GPU"] == ["StopRequestedError: ", 0]


class Evaluator:
    """Notes each of its beginnings, and does what it is told to: the first word that is left."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        self._folder, self._words = folder, words

    def evaluate(self, *_: Any) -> tuple[float, float]:
        begun = len(list(self._folder.iterdir()))
        (self._folder / str(begun)).touch()
        match self._words[begun]:
            case "lost":
                os._exit(1)
            case "memory":
                raise MemoryError("too large")
            case "code":
                raise ValueError("no such layer")
            case "hangs":
                time.sleep(600)
        return 0.5, 0.75


def main(folder: Path) -> dict[str, Any]:
    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
    told: dict[str, Any] = {}

    def evaluate(
        name: str, words: list[str], max_restarts: int, gpus: float = 0.0, ordered: bool = False, killed: bool = False
    ) -> None:
        begun = folder / name
        begun.mkdir()

        class Told(Evaluator):
            def __init__(self) -> None:
                super().__init__(begun, words)

        vars(winner)["Evaluator"] = Told
        one = WinnerEvaluation({"CPU": 1.0, "GPU": gpus})
        if killed:
            one.prepare()
            ray.get(one._actor.__ray_ready__.remote())
            ray.kill(one._actor)
            with suppress(ray.exceptions.RayActorError):  # until it is dead, which takes a moment
                while True:
                    ray.get(one._actor.__ray_ready__.remote())
        try:
            answer: Any = one.evaluate(
                NOWHERE, 1, NOWHERE, NOWHERE, NOWHERE,
                max_restarts=max_restarts, ordered=lambda: ordered and (gpus > 0 or any(begun.iterdir())),
            )  # fmt: skip
        except (EvaluationFailedError, StopRequestedError, ValueError) as error:
            answer = f"{type(error).__name__}: {error}"
        told[name] = [answer, len(list(begun.iterdir()))]

    evaluate("measured at last", ["lost", "memory", "works"], max_restarts=2)
    evaluate("lost too often", ["lost", "lost"], max_restarts=1)
    evaluate("without memory", ["memory"], max_restarts=0)
    evaluate("its own mistake", ["code"], max_restarts=9)
    evaluate("lost while it waited", ["works"], max_restarts=0, killed=True)
    evaluate("lost ahead of time and again", ["lost"], max_restarts=0, killed=True)
    evaluate("ordered while it works", ["hangs"], max_restarts=9, ordered=True)
    evaluate("ordered while it waits for a GPU", [], max_restarts=9, gpus=0.5, ordered=True)
    return told


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
