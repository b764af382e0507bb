"""What it costs to know the caller of a request and what they may do.

Run: make bench, or
python -m pytest tests/benchmarks/test_authorization.py --override-ini addopts=--import-mode=importlib -s

Two services over equal SQLite databases on this machine: one asks for no token, the other for one of a person who is in
ten teams. Requests alternate between them, so that other work of the machine slows both.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from pathlib import Path

import httpx

from service.app import create_app
from service.settings import AuthMode, Settings
from tests.support.accounts import Accounts
from tests.support.memory_launcher import MemoryLauncher
from tests.support.server import serving

REQUESTS, WARM_UP = 400, 20
TEAMS = 10
#: More than this, in milliseconds (median), would be felt by nobody, but shows that something else is done.
TARGET_MS = 1.0
#: A ratio, which does not depend on how fast the machine is.
TARGET_RATIO = 1.5


def test_the_cost_of_authorization(tmp_path: Path) -> None:
    with ExitStack() as stack:
        clients: dict[AuthMode, httpx.Client] = {}
        for mode in (AuthMode.OPEN, AuthMode.ACCOUNTS):
            settings = Settings(
                home=tmp_path / mode, auth=mode, reconcile=False, mlflow_tracking_uri="http://127.0.0.1:9"
            )
            app = create_app(settings, MemoryLauncher())
            clients[mode] = stack.enter_context(serving(app, settings=settings))
            if mode is AuthMode.ACCOUNTS:
                accounts = Accounts(app.state.context.database)
                roles = {accounts.team(f"team-{number}"): "member" for number in range(TEAMS)}
                clients[mode].headers["Authorization"] = f"Bearer {accounts.person('ada', **roles)}"
        paths = {
            mode: client.post("/api/v1/experiments", json={"name": "x"}, params=_team(mode)).headers["location"]
            for mode, client in clients.items()
        }
        took: dict[AuthMode, list[float]] = {mode: [] for mode in clients}
        for _ in range(WARM_UP + REQUESTS):
            for mode, client in clients.items():
                began = time.perf_counter()
                assert client.get(paths[mode]).status_code == 200
                took[mode].append((time.perf_counter() - began) * 1000)
    medians = {mode: statistics.median(times[WARM_UP:]) for mode, times in took.items()}
    added, ratio = (
        medians[AuthMode.ACCOUNTS] - medians[AuthMode.OPEN],
        medians[AuthMode.ACCOUNTS] / medians[AuthMode.OPEN],
    )
    print(f"\nmedian of {REQUESTS}: open {medians[AuthMode.OPEN]:.2f} ms, accounts {medians[AuthMode.ACCOUNTS]:.2f} ms")
    print(f"added {added:.2f} ms (target {TARGET_MS}), ratio {ratio:.2f} (target {TARGET_RATIO})")
    assert added <= TARGET_MS or ratio <= TARGET_RATIO


def _team(mode: AuthMode) -> dict[str, str]:
    return {} if mode is AuthMode.OPEN else {"team": "team-0"}
