"""What the service answers MLflow's server about tokens, and what drivers are given for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from search_spaces.experiment import ExperimentSpec
from service.context import AppContext
from service.contract.states import AttemptState, State
from service.domain import attempts, experiments
from service.domain.experiments import Belonging
from service.scheduling.reconciler import Reconciler
from service.settings import Settings
from service.store.models import Attempt
from tests.support.accounts import Accounts, signed_in
from tests.support.memory_launcher import MemoryLauncher

PEOPLE = "/api/v1/auth/mlflow"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Of a service with accounts, whose MLflow has workspaces."""
    changed = {"mlflow_workspaces": True, "mlflow_username": "rung-service", "mlflow_password": "secret"}
    return settings.model_copy(update=changed)


@pytest.fixture
def teams(accounts: Accounts) -> Accounts:
    for team in ("vision", "speech"):
        accounts.team(team)
    return accounts


def asked(client: httpx.Client, token: str, path: str = PEOPLE) -> httpx.Response:
    with signed_in(client, token) as other:
        return other.get(path)


def test_people_and_programs_open_the_workspaces_of_their_teams(client: httpx.Client, teams: Accounts) -> None:
    both = {"vision": "vision~member", "speech": "speech~viewer"}
    alice = teams.person("alice", vision="member", speech="viewer")
    assert asked(client, alice).json() == {"workspaces": both}
    for limits, opened in (
        ({"team": "vision"}, {"vision": "vision~member"}),
        ({"team": "vision", "role": "viewer"}, {"vision": "vision~viewer"}),
        ({"role": "viewer"}, {"vision": "vision~viewer", "speech": "speech~viewer"}),
    ):
        assert asked(client, teams.token("alice", **limits)).json() == {"workspaces": opened}
    assert asked(client, teams.program("speech", "member")).json() == {"workspaces": {"speech": "speech~member"}}
    admin = asked(client, teams.person("admin", admin=True)).json()["workspaces"]
    assert admin == {team: f"{team}~manager" for team in ("default", "speech", "vision")}
    assert asked(client, teams.person("nobody")).json() == {"workspaces": {}}


def started(context: AppContext, workspace: str | None = "vision") -> tuple[str, str]:
    """The path by which MLflow asks about a driver, and the token of its attempt."""
    with context.database.write() as session:
        one = experiments.submit(session, ExperimentSpec(name="x"), [], belonging=Belonging("vision"))
        one.mlflow_workspace = workspace
        attempt, token = attempts.start(session, one, 1, datetime.now(UTC))
        return f"/api/v1/attempts/{attempt.id}/mlflow", token


@pytest.mark.parametrize("workspace", ["vision", None])
def test_a_driver_opens_the_workspace_of_its_experiment(
    client: httpx.Client, context: AppContext, teams: Accounts, workspace: str | None
) -> None:
    path, token = started(context, workspace)
    opened = workspace or "default"
    assert asked(client, token, path).json() == {"workspaces": {opened: f"{opened}~driver"}}
    _, other_token = started(context)
    assert asked(client, other_token, path).status_code == 403
    assert asked(client, token, PEOPLE).status_code == 401


@pytest.mark.parametrize(
    ("state", "hours_ago", "status"),
    [
        (AttemptState.RUNNING, None, 200),
        (AttemptState.ENDED, 0.9, 200),
        (AttemptState.ENDED, 1.1, 409),
        (AttemptState.LOST, 0.1, 409),
    ],
)
def test_a_driver_sends_plots_for_a_while_after_its_end_and_nothing_once_it_is_lost(
    client: httpx.Client,
    context: AppContext,
    teams: Accounts,
    state: AttemptState,
    hours_ago: float | None,
    status: int,
) -> None:
    path, token = started(context)
    with context.database.write() as session:
        attempt = session.get_one(Attempt, path.split("/")[-2])
        attempt.state = state
        attempt.ended_at = None if hours_ago is None else datetime.now(UTC) - timedelta(hours=hours_ago)
    assert asked(client, token, path).status_code == status


def test_a_driver_that_was_superseded_opens_nothing(client: httpx.Client, context: AppContext, teams: Accounts) -> None:
    path, token = started(context)
    with context.database.write() as session:
        one = experiments.find(session, session.get_one(Attempt, path.split("/")[-2]).experiment_id)
        experiments.move(session, one, State.QUEUED, datetime.now(UTC))
        attempts.start(session, one, 1, datetime.now(UTC))
    assert asked(client, token, path).status_code == 409


@pytest.mark.parametrize("before", [False, True])
def test_a_driver_gets_the_token_of_its_attempt_for_mlflow_and_not_the_password_of_the_service(
    context: AppContext, teams: Accounts, launcher: MemoryLauncher, reconciler: Reconciler, before: bool
) -> None:
    """Also if its experiment began `before` MLflow had workspaces."""
    spec = ExperimentSpec.model_validate({"name": "x", "resources": {"gpus_per_trial": 0}})
    ada = teams.row(teams.person("ada", vision="member")).user_id
    with context.database.write() as session:
        one = experiments.submit(session, spec, [], belonging=Belonging("vision", ada))
        one.attempt = int(before)
    reconciler.reconcile_once()
    (launch,) = launcher.launches.values()
    assert (launch.mlflow_username, launch.mlflow_password) == (launch.attempt_id, launch.token)
    assert launch.mlflow_workspace == (None if before else "vision")
    assert launch.owner == "ada"


def test_the_api_says_in_which_workspace_an_experiment_is(
    client: httpx.Client, context: AppContext, teams: Accounts
) -> None:
    path, _ = started(context)
    experiment_id = path.split("/")[-2].split("-")[1]
    with context.database.write() as session:
        one = experiments.find(session, experiment_id)
        one.mlflow_experiment_id, one.mlflow_run_id, one.mlflow_view = "7", "parent", "rung-key"
    view = asked(client, teams.person("alice", vision="viewer"), f"/api/v1/experiments/{experiment_id}").json()
    assert view["mlflow_workspace"] == "vision"
    assert view["mlflow_url"].endswith("/#/experiments/7/runs/parent?workspace=vision")
    assert view["mlflow_view_url"].endswith("&workspace=vision")
