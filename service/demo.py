"""Demo: the main job on real handwritten digits, from an empty folder to a registered model.

`make demo` runs it. It starts the embedded stack in a temporary folder, submits the preset over REST, shows the search
live, prints its result, and runs until Ctrl-C; with DEMO_EXIT=1 it stops everything and exits. The exit status is 1 if
anything failed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from search_spaces.protocol import TrialState
from search_spaces.sampling import NOT_APPLICABLE
from search_spaces.searched import searched_parameters
from service import stack
from service.cli.console import SafeConsole
from service.cli.rendering import insight_lines, leaderboard, summary, watch
from service.client import Client
from service.contract.errors import RungError
from service.contract.schemas import ExperimentView
from service.contract.states import State
from service.presentation.experiments import best_first

PRESET = "digits-quick"


def main() -> int:
    """Run the demo and return the exit status."""
    console = SafeConsole()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    succeeded = False
    with tempfile.TemporaryDirectory(prefix="rung-demo-", ignore_cleanup_errors=True) as folder:
        try:
            console.print("Starting Ray, MLflow and the service ...")
            with stack.running(stack.Options(home=Path(folder))) as running, _uninterrupted_cleanup():
                with Client(running.addresses.service, stack.owner_token(Path(folder))) as client:
                    succeeded = _search(client, console)
                _say_where(running, console)
                if succeeded and os.environ.get("DEMO_EXIT") != "1":
                    console.print("\nEverything keeps running. Press Ctrl-C to stop it.")
                    running.watch(threading.Event())
                console.print("Stopping ...")
        except KeyboardInterrupt:
            console.print("Stopped.")
        except (stack.StackError, RungError) as error:
            console.print(f"demo: {error}", style="red", markup=False, highlight=False)
            return 1
    return 0 if succeeded else 1


@contextlib.contextmanager
def _uninterrupted_cleanup() -> Iterator[None]:
    """Ignore signals once the block is left: a second Ctrl-C during the clean-up would orphan Ray."""
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _search(client: Client, console: Console) -> bool:
    began = time.monotonic()
    experiment = client.submit(f"preset:{PRESET}")
    console.print(f"Submitted the preset {PRESET}: experiment {experiment.id}, {experiment.num_samples} trials")
    view = watch(client, experiment.id, console)
    _report(client, view, console, time.monotonic() - began)
    return _succeeded(view, console)


def _report(client: Client, view: ExperimentView, console: Console, seconds: float) -> None:
    trials = list(client.trials(view.id, sort=best_first(view), limit=10))
    console.print("\nLeaderboard", style="bold")
    searched = searched_parameters(view.spec.get("search_space"))
    console.print(leaderboard(trials, view.metric, console.width, searched))
    if view.best and trials:
        console.print("\nBest configuration", style="bold")
        for name, value in sorted(trials[0].parameters.items()):
            if name in searched and value != NOT_APPLICABLE:
                console.print(f"  {name} = {value}", markup=False, highlight=False)
    console.print()
    lines = summary(view)
    with contextlib.suppress(RungError):  # there is none
        lines += insight_lines(client.insight(view.id), view.id)
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"  time      {seconds:.0f} s from submission to {'registered model' if view.winner else 'its end'}")


def _succeeded(view: ExperimentView, console: Console) -> bool:
    """Whether nothing failed: a search registers a winner also where some of its trials end in ERROR."""
    failed = view.trials.get(TrialState.ERROR, 0)
    if failed:
        console.print(f"demo: {failed} of {view.num_samples} trials failed", style="red", highlight=False)
    if view.state == State.COMPLETED and view.winner is None:
        console.print("demo: no winner was registered", style="red", highlight=False)
    return view.state == State.COMPLETED and view.winner is not None and not failed


def _say_where(running: stack.Stack, console: Console) -> None:
    service = running.addresses.service
    console.print(f"\n  Service   {service}\n  API docs  {service}/docs\n  MLflow    {running.mlflow}", soft_wrap=True)
    console.print(f"  Commands  RUNG_HOME={running.home} .venv/bin/rung list", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
