"""What the browser tests share: an MLflow whose runs a real tracker has written, and Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from search_spaces import presets
from tests.support.chromium import Page, browser, executable
from tests.support.mlflow_examples import send_search
from tests.support.real_mlflow import running_mlflow
from tests.support.shown_searches import SIZES, Shown


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    if executable() is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    home = tmp_path_factory.mktemp("mlflow")
    spec = presets.spec("digits-quick")
    uri = f"sqlite:///{home / 'mlflow.db'}"
    searches = {}
    for size in SIZES:
        (folder := home / f"search{size}").mkdir()
        searches[size] = send_search(folder, spec, size, uri, f"of{size}")
    with running_mlflow(home) as address:
        yield Shown(address, searches)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with browser(tmp_path) as opened:
        yield opened
