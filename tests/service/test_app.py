"""The service as a whole: its own thread launches what is posted; settings come from the environment."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.adapters.mlflow_client import MlflowClient
from service.settings import Settings
from tests.support.memory_launcher import MemoryLauncher


class Watched:
    """A launcher that tells when it was asked to launch."""

    def __init__(self, launcher: MemoryLauncher) -> None:
        self._launcher = launcher
        self.launched = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._launcher, name)

    def launch(self, launch: Any) -> None:
        self._launcher.launch(launch)
        self.launched.set()


@pytest.fixture
def watched(launcher: MemoryLauncher) -> Watched:
    return Watched(launcher)


@pytest.fixture
def app(settings: Settings, watched: Any) -> FastAPI:
    from service.app import create_app

    return create_app(Settings(**{**settings.model_dump(), "reconcile": True, "reconcile_s": 3600}), watched)


def test_a_post_wakes_the_reconciler(client: httpx.Client, watched: Watched) -> None:
    assert client.post("/api/v1/experiments", json={"name": "x"}).status_code == 201
    assert watched.launched.wait(10), "the reconciler slept on"


def test_the_thread_ends_with_the_service(client: httpx.Client) -> None:
    assert "reconciler" in [thread.name for thread in threading.enumerate()]


def test_no_thread_is_left() -> None:
    assert "reconciler" not in [thread.name for thread in threading.enumerate()]


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "RUNG_HOME": str(tmp_path),
        "RUNG_PORT": "9000",
        "RUNG_HOST": "0.0.0.0",
        "RUNG_DATABASE_URL": "postgresql://rung@db/rung",
        "RUNG_MLFLOW_TRACKING_URI": "http://mlflow:5000",
    }.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.storage_root == tmp_path / "storage"
    assert settings.service_url == "http://127.0.0.1:9000"
    assert settings.sqlalchemy_url == "postgresql+psycopg://rung@db/rung"
    assert settings.mlflow_public_url == "http://mlflow:5000"


def test_every_setting_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    documented = set(re.findall(r"^\| .*?\|", text, re.MULTILINE))
    names = {name for cells in documented for name in re.findall(r"`RUNG_(\w+)`", cells)}
    assert names == {name.upper() for name in Settings.model_fields}


def test_settings_without_an_environment(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert settings.sqlalchemy_url == f"sqlite:///{tmp_path / 'rung.db'}"
    assert settings.data_root == tmp_path / "data"


def test_a_password_in_the_address_of_mlflow_is_shown_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNG_MLFLOW_TRACKING_URI", "https://ada:se%40cret@mlflow:5000/ml")
    settings = Settings()
    assert settings.mlflow_tracking_uri == settings.mlflow_public_url == "https://mlflow:5000/ml"
    assert (settings.mlflow_username, settings.mlflow_password) == ("ada", "se@cret")
    results = MlflowClient(settings)
    assert results.run_url("1", "r") == "https://mlflow:5000/ml/#/experiments/1/runs/r"
    assert "cret" not in results.unavailable_reason()
    results.close()


def test_a_given_user_is_kept(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mlflow_tracking_uri="http://ada:one@mlflow", mlflow_username="bob")
    assert (settings.mlflow_tracking_uri, settings.mlflow_username) == ("http://mlflow", "bob")


@pytest.mark.parametrize("name", ["RUNG_RAY_DASHBOARD_URL", "RUNG_SERVICE_URL", "RUNG_MLFLOW_PUBLIC_URL"])
def test_an_address_without_its_scheme_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from service.app import main

    monkeypatch.setenv(name, "head:8265")
    with pytest.raises(SystemExit) as caught:
        main()
    assert str(caught.value) == f"{name}: an address that begins with http:// or https:// required"


def test_folders_are_named_from_the_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(home=tmp_path, storage_root=Path("here")).storage_root == tmp_path / "here"


@pytest.mark.parametrize("address", ["postgresql://ada:secret@db/mlflow", "/srv/mlruns", "databricks"])
def test_only_a_server_of_mlflow_is_accepted_at_start(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    from service.app import main

    monkeypatch.setenv("RUNG_MLFLOW_TRACKING_URI", address)
    with pytest.raises(SystemExit) as caught:
        main()
    said = str(caught.value)
    assert said.startswith("RUNG_MLFLOW_TRACKING_URI: an MLflow server at http:// or https:// required")
    assert "secret" not in said
    assert "\n" not in said
