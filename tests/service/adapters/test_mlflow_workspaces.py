"""Workspaces of teams in an MLflow that answers an error for one of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.adapters.mlflow_client import ADMINISTRATION, MlflowClient
from service.adapters.mlflow_workspaces import MlflowWorkspaces
from service.settings import Settings
from service.store.database import Database
from service.store.leases import HeldLease
from tests.support.accounts import Accounts
from tests.support.handlers import QuietHandler, handling


class Administration(QuietHandler):
    """Accepts everything and forgets it. `refused`: the workspace for which it does not; `last`: after this one, the
    lease is another replica's."""

    refused = last = ""
    made: list[str] = []  # noqa: RUF012 - of all requests

    @classmethod
    def held(cls) -> HeldLease | None:
        return None if cls.last and cls.last in cls.made else HeldLease("queue", "test", 1, 15.0)

    def respond(self) -> None:
        body = json.loads(self.body() or b"{}")
        if self.path != f"{ADMINISTRATION}/workspaces":
            return self.answer(200, b'{"role": {"id": 1, "permissions": []}}')
        if body["name"] == self.refused:
            return self.answer(400, b"its name is not valid here")
        self.made.append(body["name"])
        return self.answer(201, b"{}")


@pytest.fixture
def workspaces(tmp_path: Path) -> Iterator[MlflowWorkspaces]:
    database = Database.open(f"sqlite:///{tmp_path / 'rung.db'}")
    for team in ("audio", "speech", "vision"):
        Accounts(database).team(team)
    Administration.refused, Administration.last, Administration.made = "audio", "", []
    with handling(Administration) as url:
        client = MlflowClient(Settings(home=tmp_path, mlflow_tracking_uri=url))
        yield MlflowWorkspaces(database, client, Administration.held)
        client.close()
    database.close()


def test_an_error_for_one_team_keeps_no_other_from_its_workspace(
    workspaces: MlflowWorkspaces, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        workspaces.run_once()
        workspaces.run_once()
    assert Administration.made == ["speech", "vision"] * 2, "this MLflow forgets them"
    [warning] = [one.message for one in caplog.records if one.levelno == logging.WARNING]
    assert warning.startswith("the team audio did not get its workspace in MLflow: MLflow at http://127.0.0.1:")
    assert warning.endswith(" answers 400: its name is not valid here"), "it lasts, and is logged once"
    Administration.refused = ""
    workspaces.run_once()
    assert Administration.made[-3:] == ["audio", "speech", "vision"]


def test_a_pass_ends_when_the_lease_is_lost(workspaces: MlflowWorkspaces) -> None:
    Administration.last = "speech"
    workspaces.run_once()
    assert Administration.made == ["speech"]
