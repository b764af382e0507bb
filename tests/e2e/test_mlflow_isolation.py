"""Who may do what in MLflow: routes, asked by each kind of caller about what the team `vision` has there.

`mlflow_access.csv` holds what is expected, for people to read. A cell holds two answers: with the workspace `vision`
named, and with `speech`. `yes`: carried out, or shown; `nothing`: answered, without anything of the team; `no` (403);
`absent` (404); `bad` (400); `sign in` (401). Each request that changes something gets something new to change.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.adapters.mlflow_workspaces import ROLE_PREFIX
from service.contract.errors import UnavailableError
from service.identity import mlflow_users
from tests.support.accounts import signed_in
from tests.support.memory_launcher import MemoryLauncher
from tests.support.team_mlflow import TeamMlflow, team_mlflow

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

TABLE = Path(__file__).with_name("mlflow_access.csv")
CALLERS = ("nobody", "viewer", "member", "manager", "admin", "driver", "stranger", "other driver")
ANSWERS = {400: "bad", 401: "sign in", 403: "no", 404: "absent"}
#: In everything of the team: no answer to somebody else has it.
CANARY = "canary"
API, ARTIFACTS = "/api/2.0/mlflow", "/api/2.0/mlflow-artifacts/artifacts"
numbers = itertools.count()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamMlflow]:
    """Two teams. `vision` has a person of each role; in `speech` there is a manager, who is a stranger to the first."""
    with team_mlflow(tmp_path_factory.mktemp("shared"), MemoryLauncher()) as made:
        for team in ("vision", "speech"):
            made.accounts.team(team)
        made.workspaces.run_once()
        for role in ("viewer", "member", "manager"):
            made.credentials[role] = ("any name", made.accounts.person(role, vision=role))
        made.credentials["admin"] = ("any name", made.accounts.person("admin", admin=True))
        made.credentials["stranger"] = ("any name", made.accounts.person("stranger", speech="manager"))
        for role in ("viewer", "manager"):
            token = made.accounts.person(f"{role}-of-default", default=role)
            made.credentials[f"{role} of default"] = ("any name", token)
        made.credentials["driver of default"] = made.driver("default")
        made.credentials["driver"] = made.driver("vision")
        made.credentials["other driver"] = made.driver("speech")
        yield made


class Team:
    """What the driver of `vision` makes in MLflow."""

    def __init__(self, shared: TeamMlflow) -> None:
        self._shared = shared
        self.experiment = self.new_experiment()
        self.run, self.folder = self.new_run()
        self.post("/runs/log-metric", run_id=self.run, key=CANARY, value=0.5, timestamp=1, step=1)
        self.upload(self.folder)
        self.model = self.new_model()
        self.logged = self.new_logged_model()

    def post(self, path: str, **body: Any) -> Any:
        answer = self._shared.ask("driver", "POST", API + path, "vision", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def upload(self, folder: str) -> None:
        path = f"{ARTIFACTS}/{folder}/canary.txt"
        answer = self._shared.ask("driver", "PUT", path, "vision", content=CANARY.encode())
        assert answer.status_code == 200, answer.text

    def new_experiment(self) -> str:
        return str(self.post("/experiments/create", name=f"{CANARY}-{next(numbers)}")["experiment_id"])

    def new_run(self) -> tuple[str, str]:
        """Its id, and the folder of its artifacts."""
        made = self.post("/runs/create", experiment_id=self.experiment, run_name=CANARY, start_time=1)["run"]["info"]
        return made["run_id"], made["artifact_uri"].removeprefix("mlflow-artifacts:/")

    def new_model(self) -> str:
        """A registered model with a version."""
        name = f"{CANARY}-{next(numbers)}"
        self.post("/registered-models/create", name=name)
        self.post("/model-versions/create", name=name, source=f"mlflow-artifacts:/{self.folder}/m", run_id=self.run)
        return name

    def new_logged_model(self) -> str:
        made = self.post("/logged-models", experiment_id=self.experiment, name=CANARY, source_run_id=self.run)
        return str(made["model"]["info"]["model_id"])


@pytest.fixture(scope="module")
def team(shared: TeamMlflow) -> Team:
    return Team(shared)


#: What is sent: the method, the path, and the content of a request.
Made = tuple[str, str, dict[str, Any]]


def _get(path: str, query: Callable[[Team], dict[str, str]]) -> Callable[[Team], Made]:
    return lambda team: ("GET", path, {"params": query(team)})


def _post(path: str, body: Callable[[Team], dict[str, Any]], method: str = "POST") -> Callable[[Team], Made]:
    return lambda team: (method, path, {"json": body(team)})


def _new_folder(team: Team) -> str:
    folder = team.new_run()[1]
    team.upload(folder)
    return folder


RUN_BY_GRAPHQL = 'query Q{mlflowGetRun(input:{runId:"%s"}){run{info{runName}}}}'
V3 = "/api/3.0/mlflow"
ASSISTANT = "/ajax-api/3.0/mlflow/assistant"
REQUESTS: dict[str, Callable[[Team], Made]] = {
    "get an experiment": _get(f"{API}/experiments/get", lambda team: {"experiment_id": team.experiment}),
    "search experiments": _post(f"{API}/experiments/search", lambda team: {"max_results": 100}),
    "create an experiment": _post(f"{API}/experiments/create", lambda team: {"name": f"n{next(numbers)}"}),
    "rename an experiment": _post(
        f"{API}/experiments/update",
        lambda team: {"experiment_id": team.new_experiment(), "new_name": f"n{next(numbers)}"},
    ),
    "delete an experiment": _post(f"{API}/experiments/delete", lambda team: {"experiment_id": team.new_experiment()}),
    "tag an experiment": _post(
        f"{API}/experiments/set-experiment-tag",
        lambda team: {"experiment_id": team.experiment, "key": "k", "value": "v"},
    ),
    "create a run": _post(f"{API}/runs/create", lambda team: {"experiment_id": team.experiment, "start_time": 1}),
    "get a run": _get(f"{API}/runs/get", lambda team: {"run_id": team.run}),
    "search runs": _post(f"{API}/runs/search", lambda team: {"experiment_ids": [team.experiment]}),
    "log a metric": _post(
        f"{API}/runs/log-metric", lambda team: {"run_id": team.run, "key": "k", "value": 1, "timestamp": 1, "step": 1}
    ),
    "tag a run": _post(f"{API}/runs/set-tag", lambda team: {"run_id": team.run, "key": "k", "value": "v"}),
    "delete a run": _post(f"{API}/runs/delete", lambda team: {"run_id": team.new_run()[0]}),
    "get a curve": _get(f"{API}/metrics/get-history", lambda team: {"run_id": team.run, "metric_key": CANARY}),
    "get curves": _get(
        "/ajax-api/2.0/mlflow/metrics/get-history-bulk", lambda team: {"run_id": team.run, "metric_key": CANARY}
    ),
    "ask GraphQL for a run": _post("/graphql", lambda team: {"query": RUN_BY_GRAPHQL % team.run, "operationName": "Q"}),
    "upload a file": lambda team: ("PUT", f"{ARTIFACTS}/{team.folder}/canary-2.txt", {"content": b"b"}),
    "list files": _get(ARTIFACTS, lambda team: {"path": team.folder}),
    "download a file": lambda team: ("GET", f"{ARTIFACTS}/{team.folder}/canary.txt", {}),
    "download a file of a run": _get("/get-artifact", lambda team: {"run_uuid": team.run, "path": "canary.txt"}),
    "delete a file": lambda team: ("DELETE", f"{ARTIFACTS}/{_new_folder(team)}/canary.txt", {}),
    "create a model": _post(f"{API}/registered-models/create", lambda team: {"name": f"n{next(numbers)}"}),
    "get a model": _get(f"{API}/registered-models/get", lambda team: {"name": team.model}),
    "search models": _get(f"{API}/registered-models/search", lambda team: {"max_results": "100"}),
    "search versions": _get(f"{API}/model-versions/search", lambda team: {"filter": f"run_id = '{team.run}'"}),
    "set an alias": _post(
        f"{API}/registered-models/alias", lambda team: {"name": team.model, "alias": "best", "version": "1"}
    ),
    "find the files of a version": _get(
        f"{API}/model-versions/get-download-uri", lambda team: {"name": team.model, "version": "1"}
    ),
    "add a version": _post(
        f"{API}/model-versions/create",
        lambda team: {"name": team.model, "source": f"mlflow-artifacts:/{team.folder}/m", "run_id": team.run},
    ),
    "delete a version": _post(
        f"{API}/model-versions/delete", lambda team: {"name": team.new_model(), "version": "1"}, "DELETE"
    ),
    "delete a model": _post(f"{API}/registered-models/delete", lambda team: {"name": team.new_model()}, "DELETE"),
    "get a logged model": lambda team: ("GET", f"{API}/logged-models/{team.logged}", {}),
    "search logged models": _post(f"{API}/logged-models/search", lambda team: {"experiment_ids": [team.experiment]}),
    "delete a logged model": lambda team: ("DELETE", f"{API}/logged-models/{team.new_logged_model()}", {}),
    "list users": _get(f"{API}/users/list", lambda team: {}),
    "list roles": _get(f"{V3}/roles/list", lambda team: {"workspace": "vision"}),
    "give somebody a right": _post(
        f"{V3}/users/permissions/grant",
        lambda team: {
            "username": "speech~viewer",
            "resource_type": "experiment",
            "resource_id": team.experiment,
            "permission": "READ",
        },
    ),
    "give a role": _post(f"{V3}/roles/assign", lambda team: {"username": "vision~viewer", "role_id": 1}),
    "set a password": _post(
        f"{API}/users/update-password", lambda team: {"username": "rung", "password": "password of mine"}, "PATCH"
    ),
    "create a workspace": _post(f"{V3}/workspaces", lambda team: {"name": f"w{next(numbers)}"}),
    "delete a workspace": lambda team: ("DELETE", f"{V3}/workspaces/vision", {}),
    "list secrets of the gateway": _get("/ajax-api/3.0/mlflow/gateway/secrets/list", lambda team: {}),
    "create a webhook": _post(
        f"{API}/webhooks", lambda team: {"name": "w", "url": "https://example.com", "events": [{}]}
    ),
    "configure the assistant": _post(f"{ASSISTANT}/config", lambda team: {"providers": {}}, "PUT"),
    "ask the assistant": _post(f"{ASSISTANT}/message", lambda team: {"message": "run a command"}),
    "install skills of the assistant": _post(f"{ASSISTANT}/skills/install", lambda team: {"type": "global"}),
    "search jobs": _post("/ajax-api/3.0/jobs/search", lambda team: {}),
    "list MCP servers": _get("/ajax-api/3.0/mlflow/mcp-servers", lambda team: {}),
    "send traces": lambda team: ("POST", "/v1/traces", {"content": b""}),
}


def test_every_answer_is_the_one_of_the_table(shared: TeamMlflow, team: Team) -> None:
    actual = {
        name: [
            "/".join(_answer(shared, team, make, caller, where) for where in ("vision", "speech")) for caller in CALLERS
        ]
        for name, make in REQUESTS.items()
    }
    with TABLE.open() as file:
        (_, *header), *rows = csv.reader(file)
    assert tuple(header) == CALLERS
    expected = {name: cells for name, *cells in rows}
    differing = {name: cells for name, cells in actual.items() if cells != expected.get(name)}
    assert not differing, "\n".join(",".join((name, *cells)) for name, cells in differing.items())
    assert actual.keys() == expected.keys()


def _answer(shared: TeamMlflow, team: Team, make: Callable[[Team], Made], caller: str, workspace: str) -> str:
    method, path, content = make(team)
    answer = shared.ask(caller, method, path, workspace, **content)
    if caller in ("nobody", "stranger", "other driver") or workspace == "speech":
        assert CANARY not in answer.text or answer.status_code >= 400, answer.text
    if answer.status_code != 200 and answer.status_code != 201:
        return ANSWERS.get(answer.status_code, str(answer.status_code))
    reads = method == "GET" or path.endswith(("/search", "/graphql"))
    return "nothing" if reads and CANARY not in answer.text and team.run not in answer.text else "yes"


def test_a_program_a_browser_and_a_restricted_token_sign_in_and_a_wrong_one_does_not(shared: TeamMlflow) -> None:
    """A program may send its token without a name. A token is worth what it was made for."""
    programs = {"program": shared.accounts.program("vision", "viewer")}
    programs["restricted"] = shared.accounts.token("manager", team="vision", role="viewer")
    for name, token in programs.items():
        answer = httpx.get(
            f"{shared.url}{API}/users/current",
            headers={"Authorization": f"Bearer {token}", "X-MLFLOW-WORKSPACE": "vision"},
            trust_env=False,
        )
        assert answer.json()["user"]["username"] == "vision~viewer", name
    shared.credentials["wrong"] = ("rung", "another password")
    shared.credentials["revoked"] = ("any name", shared.accounts.token("manager", revoked=True))
    for caller in ("wrong", "revoked", "nobody"):
        answer = shared.ask(caller, "GET", "/", None)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'Basic realm="mlflow"')


def test_pages_open_without_a_workspace_and_list_the_one_that_is_open(shared: TeamMlflow) -> None:
    shared.credentials["of both"] = ("any name", shared.accounts.person("both", vision="viewer", speech="member"))
    assert "<html" in shared.ask("of both", "GET", "/", None).text
    for workspace, user in (("vision", "vision~viewer"), ("speech", "speech~member"), (None, "speech~member")):
        assert shared.ask("of both", "GET", f"{API}/users/current", workspace).json()["user"]["username"] == user
        listed = shared.ask("of both", "GET", "/ajax-api/3.0/mlflow/workspaces", workspace).json()["workspaces"]
        assert [one["name"] for one in listed] == [workspace or "speech"]
    assert shared.ask("of both", "GET", f"{API}/users/current", "default").status_code == 403
    without = shared.ask("of both", "POST", f"{API}/experiments/search", None, json={"max_results": 100})
    is_empty = without.status_code == 200 and not without.json().get("experiments")
    assert is_empty or without.status_code == 403, "the workspace default is not that of a team of theirs"


def test_what_a_role_is_worth_changes_with_the_role(shared: TeamMlflow) -> None:
    """What a member made is the team's, not the member's. MLflow remembers for half a minute what a token opens."""
    made = shared.accounts.person("leaving", vision="member")
    shared.credentials["leaving"] = ("any name", made)
    body = {"name": f"of a member {next(numbers)}"}
    experiment = shared.ask("leaving", "POST", f"{API}/experiments/create", "vision", json=body).json()["experiment_id"]
    client = httpx.Client(base_url=shared.service, trust_env=False)
    with signed_in(client, shared.credentials["manager"][1]) as manager:
        manager.put("/api/v1/teams/vision/members/leaving", json={"role": "viewer"}).raise_for_status()
    shared.credentials["again"] = ("any name", shared.accounts.token("leaving"))
    deletion = {"json": {"experiment_id": experiment}}
    assert shared.ask("again", "POST", f"{API}/experiments/delete", "vision", **deletion).status_code == 403
    assert shared.ask("member", "POST", f"{API}/experiments/delete", "vision", **deletion).status_code == 200


@pytest.mark.parametrize("begin", ["", "./", "%2e/", "%252e/", ".%2f", "/", "1/./../"])
@pytest.mark.parametrize("workspace", ["default", None])
def test_no_path_leads_from_the_default_workspace_to_the_files_of_another(
    shared: TeamMlflow, team: Team, begin: str, workspace: str | None
) -> None:
    """Its files are not in a folder of their own, but in the one that has those of all workspaces."""
    answer = shared.ask("manager of default", "GET", f"{ARTIFACTS}/{begin}{team.folder}/canary.txt", workspace)
    assert answer.status_code in {400, 403}
    for folder in (team.folder, "workspaces"):
        answer = shared.ask("manager of default", "GET", f"{ARTIFACTS}?path={begin}{folder}", workspace)
        assert answer.status_code in {400, 403}
    assert shared.ask("manager of default", "GET", ARTIFACTS, workspace).status_code == 200, "its own folder is listed"


@pytest.mark.parametrize("workspace", ["default", None])
def test_files_of_the_team_default_are_in_the_default_workspace(shared: TeamMlflow, workspace: str | None) -> None:
    def ask(caller: str, method: str, path: str, **content: Any) -> httpx.Response:
        return shared.ask(caller, method, path, workspace, **content)

    made = ask(
        "manager of default", "POST", f"{API}/experiments/create", json={"name": f"{CANARY}-{next(numbers)}"}
    ).json()
    body = {"experiment_id": made["experiment_id"], "start_time": 1}
    info = ask("manager of default", "POST", f"{API}/runs/create", json=body).json()["run"]["info"]
    folder = info["artifact_uri"].removeprefix("mlflow-artifacts:/")
    for caller, status in (("manager of default", 200), ("driver of default", 200), ("viewer of default", 403)):
        put = ask(caller, "PUT", f"{ARTIFACTS}/{folder}/{caller}.txt", content=CANARY.encode())
        assert put.status_code == status, (caller, put.text)
    for caller, status in (("viewer of default", 200), ("stranger", 403), ("nobody", 401)):
        assert ask(caller, "GET", f"{ARTIFACTS}/{folder}/manager of default.txt").status_code == status, caller
        assert ask(caller, "GET", ARTIFACTS, params={"path": folder}).status_code == status, caller


def test_the_service_finds_the_runs_of_an_experiment_in_its_workspace_only(shared: TeamMlflow, team: Team) -> None:
    mlflow = shared.context.mlflow
    assert list(mlflow.within("vision").curves(team.run, [CANARY])) == [CANARY]
    for workspace in ("speech", None):
        assert mlflow.within(workspace).find_runs([team.experiment], [team.run]) == []
        with pytest.raises(UnavailableError, match="404"):
            mlflow.within(workspace).curves(team.run, [CANARY])


def test_what_a_person_changed_in_mlflow_is_repaired(shared: TeamMlflow) -> None:
    def users() -> dict[str, Any]:
        found = shared.ask("service", "GET", f"{API}/users/list", None).json()["users"]
        return {user["username"]: user for user in found}

    def role(name: str) -> Any:
        return next(one for one in users()[f"vision~{name}"]["roles"] if one["name"] == ROLE_PREFIX + name)

    def change(method: str, path: str, **body: Any) -> None:
        shared.ask("service", method, V3 + path, "vision", json=body).raise_for_status()

    member, viewer = role("member"), role("viewer")
    added = {"resource_type": "registered_model", "resource_pattern": "x", "permission": "MANAGE"}
    change("POST", "/roles/permissions/add", role_id=viewer["id"], **added)
    change("DELETE", "/roles/permissions/remove", role_permission_id=viewer["permissions"][0]["id"])
    change("PATCH", "/roles/permissions/update", role_permission_id=member["permissions"][1]["id"], permission="MANAGE")
    change("DELETE", "/roles/delete", role_id=role("driver")["id"])
    shared.ask("service", "DELETE", f"{API}/users/delete", None, json={"username": "vision~manager"}).raise_for_status()
    assert shared.ask("driver", "POST", f"{API}/experiments/create", "vision", json={"name": "no"}).status_code == 403
    assert shared.ask("manager", "GET", "/version", "vision").status_code == 503
    shared.workspaces.run_once()
    for name, grants in mlflow_users.GRANTS.items():
        found = {one["resource_type"]: one["permission"] for one in role(name)["permissions"]}
        assert (found, len(role(name)["permissions"])) == (dict(grants), len(grants))
    assert shared.ask("manager", "GET", "/version", "vision").status_code == 200
    before = users()
    shared.workspaces.run_once()
    assert users() == before, "what is right is left as it is"


def test_a_team_of_the_time_when_mlflow_was_down_is_prepared_and_so_are_users_that_it_lost(
    shared: TeamMlflow, team: Team
) -> None:
    """Until then their people are asked to try again."""
    shared.stop()
    (shared.home / "auth.db").unlink()
    shared.accounts.team("late")
    shared.credentials["late"] = ("any name", shared.accounts.person("late", late="member"))
    with pytest.raises(UnavailableError):
        shared.workspaces.run_once()
    shared.start()
    for caller, workspace in (("late", None), ("viewer", "vision")):
        answer = shared.ask(caller, "GET", "/version", workspace)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    shared.workspaces.run_once()
    body = {"json": {"name": "first"}}
    assert shared.ask("late", "POST", f"{API}/experiments/create", "late", **body).status_code == 200
    assert shared.ask("late", "POST", f"{API}/experiments/create", "vision", **body).status_code == 403
    assert CANARY in shared.ask("viewer", "GET", f"{API}/runs/get?run_id={team.run}", "vision").text
