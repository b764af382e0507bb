"""What the demo prints and how it exits, against a real service; it cleans up behind itself, no matter how often Ctrl-C
is pressed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search_spaces.layout import ExperimentFolder
from service import demo, stack
from service.client import Client
from service.context import AppContext
from service.contract.errors import RungError
from tests.support.insights import insight
from tests.support.world import World


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RungError("refused")])
def test_the_end_is_not_interrupted(
    monkeypatch: pytest.MonkeyPatch, handlers: None, failure: BaseException | type[BaseException]
) -> None:
    stopped = []

    @contextmanager
    def running(options: stack.Options) -> Iterator[Any]:
        try:
            yield SimpleNamespace(addresses=stack.Addresses(1, "http://127.0.0.1:9", "", "", ""))
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), number)
            stopped.append(options.home)

    def submit(*_: Any) -> None:
        raise failure

    monkeypatch.setattr(stack, "running", running)
    monkeypatch.setattr(Client, "submit", submit)
    assert demo.main() == 1
    assert len(stopped) == 1
    assert not stopped[0].exists()


LINES = [
    {"state": "EARLY_STOPPED", "best_value": 0.5, "parameters": {"optimizer.kind": "sgd", "optimizer.lr": 0.5}},
    {"state": "COMPLETED", "best_value": 0.96875, "parameters": {"optimizer.kind": "adam", "optimizer.lr": 0.0625}},
    {"state": "DIVERGED", "parameters": {"optimizer.kind": "sgd", "optimizer.lr": 1.0}},
]
WINNER = {"trial": 1, "value": 0.96875, "test_accuracy": 0.9375, "test_loss": 0.25, "model_uri": "models:/demo/1"}


@pytest.fixture
def exit_status(
    monkeypatch: pytest.MonkeyPatch, handlers: None, world: World, context: AppContext
) -> Callable[[dict[str, Any], Any], int]:
    """The demo's, on a service whose driver sends one final heartbeat with some trials."""

    @contextmanager
    def running(options: stack.Options) -> Iterator[Any]:
        at = stack.Addresses(1, str(world.client.base_url).rstrip("/"), "http://127.0.0.1:9", "", "")
        yield SimpleNamespace(addresses=at, home=options.home, mlflow="http://rung:password@127.0.0.1:9")

    def begin(last: dict[str, Any], lines: Any) -> int:
        def drive() -> None:
            assert context.wake.wait(20)  # a submission wakes the reconciler
            world.reconciler.reconcile_once()
            (launch,) = world.launcher.launches.values()
            trials = [world.line(number, **line) for number, line in enumerate(lines)]
            report = ExperimentFolder(Path(context.settings.storage_root) / launch.experiment_id).insight_report
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(insight().model_dump_json())
            answer = world.beat(launch.experiment_id, {**last, "trials": trials})
            assert answer.status_code == 200, answer.text

        monkeypatch.setattr(stack, "running", running)
        monkeypatch.setenv("DEMO_EXIT", "1")
        monkeypatch.setenv("COLUMNS", "120")
        context.wake.clear()
        driver = threading.Thread(target=drive)
        driver.start()
        status = demo.main()
        driver.join(20)
        return status

    return begin


def test_the_demo_says_what_came_of_it(
    exit_status: Callable[..., int], world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status({"phase": "completed", "winner": WINNER}, LINES) == 0
    said = capsys.readouterr().out
    assert "Submitted the preset digits-quick: experiment " in said
    board = said[said.index("Leaderboard") : said.index("Best configuration")].splitlines()
    assert board[1].split() == ["trial", "state", "epoch", "accuracy", "at", "optimizer", "lr"]
    assert [line.split()[:4] for line in board[2:5]] == [
        ["1", "COMPLETED", "1", "0.9688"],
        ["0", "EARLY_STOPPED", "1", "0.5"],
        ["2", "DIVERGED", "1", "-"],
    ]
    best = said[said.index("Best configuration") :].splitlines()
    assert best[1:3] == ["  optimizer.kind = adam", "  optimizer.lr = 0.0625"]
    assert "  best      trial 1, validation_accuracy 0.9688" in best
    assert "  test      accuracy 0.9375" in best
    assert f"  API docs  {str(world.client.base_url).rstrip('/')}/docs" in best
    assert "  MLflow    http://rung:password@127.0.0.1:9" in best
    assert any(line.startswith("  ties ") for line in best), "how sure the result is"
    assert "failed" not in said


@pytest.mark.parametrize(
    ("last", "more", "said"),
    [
        ({"phase": "completed", "winner": WINNER}, [{"state": "ERROR"}], "demo: 1 of 32 trials failed"),
        ({"phase": "completed"}, [], "demo: no winner was registered"),
        ({"phase": "failed", "reason": "the data is gone"}, [], "ERROR: the data is gone"),
    ],
)
def test_the_demo_fails_when_anything_failed(
    exit_status: Callable[..., int],
    last: dict[str, Any],
    more: list[dict[str, Any]],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_status(last, LINES + more) == 1
    assert said in capsys.readouterr().out
