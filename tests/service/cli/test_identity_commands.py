"""The commands about sign-in, tokens, teams and people: what they send, print and store, and their exit status."""

from __future__ import annotations

import json
import stat
import threading
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from service.cli import app
from service.cli.identity_tables import audit, members, teams, tokens, users
from service.cli.rendering import draw
from service.contract.identity import AuditEntry, TeamView, TokenView, UserView
from tests.support.openid_provider import CLIENT, OpenIdProvider, openid_provider
from tests.support.recording_server import Recorded, recording

API = "/api/v1"
ALICE = {"login": "alice", "name": "Alice Example", "email": "alice@example.com", "created_at": "2026-11-01T12:00:00Z"}
TOKEN = {"id": "t8k2m4qz", "name": "laptop", "expires_at": "2099-03-01T12:00:00Z"}
SIGNED_IN = {"token": "rung_p_secret", **TOKEN, "user": ALICE}
NOT_SIGNED_IN = {"type": "urn:rung:problem:unauthorized", "detail": "a token is needed", "status": 401}
PASSWORDS = {"mode": "accounts", "password": True, "oidc": None}
TEAM = {
    "team": "vision",
    "name": "Computer vision",
    "members": [{"login": "alice", "name": "Alice Example", "role": "manager"}, {"login": "bob", "role": "viewer"}],
}

Run = Callable[..., Result]


@pytest.fixture
def server() -> Iterator[Recorded]:
    with recording({f"GET {API}/auth": (200, PASSWORDS), f"POST {API}/auth/login": (201, SIGNED_IN)}) as found:
        yield found


@pytest.fixture
def run(server: Recorded, tmp_path: Path) -> Run:
    def invoke(*arguments: str, **options: Any) -> Result:
        environment = {
            "RUNG_URL": server.url,
            "RUNG_HOME": str(tmp_path / "home"),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "RUNG_TOKEN": "",
            "TZ": "UTC",
            **options.pop("env", {}),
        }
        return CliRunner(env=environment).invoke(app, arguments, **options)

    return invoke


def tokens_file(tmp_path: Path) -> Path:
    return tmp_path / "config" / "rung" / "tokens.json"


def test_a_person_signs_in_and_the_commands_send_the_token(run: Run, server: Recorded, tmp_path: Path) -> None:
    result = run("login", "--login", "alice", "--expires", "7d", input="correct horse battery\n")
    assert (result.exit_code, result.stdout) == (0, f"signed in to {server.url} as alice until 2099-03-01 12:00\n")
    sent = server.requests[-1]
    assert sent.body.pop("name").startswith("rung login on ")
    assert sent.body == {"login": "alice", "password": "correct horse battery", "expires_days": 7}
    assert server.tokens == [None, None]
    assert stat.S_IMODE(tokens_file(tmp_path).stat().st_mode) == 0o600

    server.answers[f"GET {API}/auth/whoami"] = (
        200,
        {
            "user": ALICE,
            "kind": "person",
            "teams": [{"team": "vision", "role": "manager"}, {"team": "nlp", "role": "viewer"}],
            "token": TOKEN,
        },
    )
    assert run("whoami").stdout.splitlines() == [
        f"alice (Alice Example) at {server.url}",
        "  admin     no",
        "  teams     vision (manager), nlp (viewer)",
        "  token     t8k2m4qz (laptop), until 2099-03-01 12:00",
        "  from      `rung login`",
    ]
    assert json.loads(run("whoami", "--json").stdout)["source"] == "login"
    assert server.tokens[-1] == "Bearer rung_p_secret"

    server.answers[f"POST {API}/auth/logout"] = (204, None)
    assert run("logout").stdout == f"signed out of {server.url} (alice)\n"
    assert server.tokens[-1] == "Bearer rung_p_secret"
    assert json.loads(tokens_file(tmp_path).read_text())["origins"] == {}
    assert run("logout").exit_code == 1


def test_a_token_that_was_given_is_checked_and_kept(run: Run, server: Recorded, tmp_path: Path) -> None:
    server.answers[f"GET {API}/auth/whoami"] = (401, NOT_SIGNED_IN)
    assert run("login", "--with-token", input="rung_p_wrong\n").exit_code == 1
    assert not tokens_file(tmp_path).exists()
    server.answers[f"GET {API}/auth/whoami"] = (200, {"user": ALICE, "kind": "person", "admin": True, "token": TOKEN})
    result = run("login", "--with-token", input="rung_p_given\n")
    assert (result.exit_code, result.stdout) == (0, f"signed in to {server.url} as alice until 2099-03-01 12:00\n")
    run("whoami")
    assert server.tokens == ["Bearer rung_p_wrong", "Bearer rung_p_given", "Bearer rung_p_given"]


def test_the_password_is_asked_for_and_never_printed(run: Run) -> None:
    result = run("login", input="alice\ncorrect horse battery\n")
    assert result.exit_code == 0
    assert "Login" in result.stderr
    assert "correct horse" not in result.output
    assert run("login", "--login", "alice").stderr == (
        "rung: there is no terminal to ask for a password: write it to standard input, as one line\n"
    )


def test_json_of_a_sign_in_has_no_token(run: Run, server: Recorded) -> None:
    result = run("login", "--login", "alice", "--json", input="correct horse battery\n")
    answer = json.loads(result.stdout)
    assert (answer["url"], answer["user"]["login"], answer["id"]) == (server.url, "alice", "t8k2m4qz")
    assert "rung_p_secret" not in result.output


def test_a_connection_that_others_can_read_is_warned_about(run: Run, server: Recorded) -> None:
    url = server.url.replace("127.0.0.1", "0.0.0.0")
    result = run("login", "--login", "alice", "--url", url, input="correct horse battery\n")
    assert result.stderr == f"warning: {url} is not encrypted: others on the network can read what you send\n"
    assert result.exit_code == 0


def test_a_wrong_password_stores_nothing(run: Run, server: Recorded, tmp_path: Path) -> None:
    problem = {"type": "urn:rung:problem:unauthorized", "detail": "the login or the password is wrong", "status": 401}
    server.answers[f"POST {API}/auth/login"] = (401, problem)
    result = run("login", "--login", "alice", input="wrong\n")
    assert (result.exit_code, result.stderr) == (1, "rung: the login or the password is wrong\n")
    assert not tokens_file(tmp_path).exists()


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ((200, {"mode": "open", "password": False}), "has no accounts: it needs no token"),
        ((200, {"mode": "owner", "password": False}), "set RUNG_URL, and RUNG_TOKEN to the content of the file"),
        ((200, {"mode": "accounts", "password": False}), "offers no way to sign in"),
        ((404, {"detail": "x", "status": 404}), "it is a service of an earlier version"),
    ],
)
def test_where_nobody_can_sign_in_the_command_says_why(
    run: Run, server: Recorded, methods: tuple[int, Any], said: str
) -> None:
    server.answers[f"GET {API}/auth"] = methods
    result = run("login")
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr
    assert json.loads(run("login", "--json").stderr)["status"] == 409


@pytest.fixture(scope="module")
def running_provider() -> Iterator[OpenIdProvider]:
    with openid_provider() as provider:
        yield provider


@pytest.fixture
def provider(running_provider: OpenIdProvider, server: Recorded) -> OpenIdProvider:
    running_provider.behave()
    oidc = {"issuer": running_provider.issuer, "client_id": CLIENT, "scopes": ["openid", "email"]}
    server.answers[f"GET {API}/auth"] = (200, {"mode": "accounts", "password": True, "oidc": oidc})
    server.answers[f"POST {API}/auth/exchange"] = (201, SIGNED_IN)
    return running_provider


def test_a_person_signs_in_on_another_device(run: Run, server: Recorded, provider: OpenIdProvider) -> None:
    provider.decide("approved")
    result = run("login")  # there is no terminal, so that nobody would see a browser
    assert (result.exit_code, result.stdout) == (0, f"signed in to {server.url} as alice until 2099-03-01 12:00\n")
    assert result.stderr.splitlines() == [
        f"Signing in to {server.url} with {provider.issuer}",
        f"  Open   {provider.issuer}/device",
        "  Enter  WDJB-MJHT",
        f"  or open {provider.issuer}/device?user_code=WDJB-MJHT",
        "Waiting for you to sign in there; Ctrl-C stops.",
    ]
    sent = server.requests[-1]
    assert sent.body["id_token"].count(".") == 2
    assert "nonce" not in sent.body


def test_a_person_signs_in_with_the_browser_of_this_machine(
    run: Run, server: Recorded, provider: OpenIdProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def browse(url: str) -> None:
        options = {"follow_redirects": True, "trust_env": False}
        threading.Thread(target=httpx.get, args=(url,), kwargs=options).start()

    monkeypatch.setattr(webbrowser, "open", browse)
    assert run("login", "--browser").exit_code == 0
    assert server.requests[-1].path == f"{API}/auth/exchange"
    assert len(server.requests[-1].body["nonce"]) > 30


def test_a_provider_that_cannot_be_trusted_is_not_asked(run: Run, server: Recorded, provider: OpenIdProvider) -> None:
    server.answers[f"GET {API}/auth"][1]["oidc"]["issuer"] = "http://192.0.2.1"
    result = run("login", "--device")
    assert result.exit_code == 1
    assert "its issuer must be an https URL, or an http URL of this machine (got http://192.0.2.1)" in result.stderr


def test_a_password_needs_no_provider(run: Run, server: Recorded, provider: OpenIdProvider) -> None:
    result = run("login", "--login", "alice", "--device", input="correct horse battery\n")
    assert result.exit_code == 1
    assert "--login signs in with a password, --device and --browser with an OpenID provider" in result.stderr
    assert f"POST {API}/auth/login" not in [f"{one.method} {one.path}" for one in server.requests]


def test_a_refusal_names_the_next_step(run: Run, server: Recorded, tmp_path: Path) -> None:
    server.answers[f"GET {API}/experiments"] = (401, NOT_SIGNED_IN)
    result = run("list")
    assert (result.exit_code, result.stderr) == (
        1,
        f"rung: a token is needed; run `rung login --url {server.url}`\n",
    )
    assert json.loads(run("list", "--json").stderr)["detail"].endswith(f"run `rung login --url {server.url}`")
    run("login", "--login", "alice", input="correct horse battery\n")
    assert "the sign-in has ended, run `rung login" in run("list").stderr
    assert "check RUNG_TOKEN" in run("list", env={"RUNG_TOKEN": "rung_s_x"}).stderr
    assert "check --token" in run("list", "--token", "rung_s_x").stderr
    tokens_file(tmp_path).unlink()
    with recording({f"GET {API}/experiments": (401, NOT_SIGNED_IN)}) as other:
        result = run("list", "--url", other.url, env={"RUNG_TOKEN": "rung_s_x"})
        assert other.tokens == [None]
        assert f"RUNG_TOKEN is sent to {server.url} only: to use it here, set RUNG_URL={other.url}" in result.stderr


def test_tokens_are_created_listed_and_revoked(run: Run, server: Recorded) -> None:
    created = {**TOKEN, "token": "rung_s_new", "kind": "service", "team": "vision", "role": "member"}
    server.answers[f"POST {API}/tokens"] = (201, created)
    result = run("token", "create", "nightly-ci", "--team", "vision")
    assert result.stdout == "rung_s_new\n", "for scripts"
    assert result.stderr == (
        "token t8k2m4qz of team vision (member) is valid until 2099-03-01; it is not shown again:\n"
    )
    body = {"kind": "service", "name": "nightly-ci", "expires_days": 90, "team": "vision", "role": "member"}
    assert server.requests[-1].body == body
    run("token", "create", "mine", "--expires", "1")
    assert server.requests[-1].body == {"kind": "person", "name": "mine", "expires_days": 1}
    server.answers[f"POST {API}/tokens"] = (201, {**TOKEN, "token": "rung_p_new", "role": "viewer"})
    result = run("token", "create", "grafana", "--role", "viewer", "--expires", "1")
    assert server.requests[-1].body == {"kind": "person", "name": "grafana", "expires_days": 1, "role": "viewer"}
    assert result.stderr.startswith("token t8k2m4qz, restricted to the role viewer, is valid until ")
    ended = {**TOKEN, "id": "old", "expires_at": "2020-01-01T00:00:00Z", "last_used_at": "2019-12-31T23:59:00Z"}
    server.answers[f"GET {API}/tokens"] = (200, {"items": [created, ended]})
    shown = run("token", "list", "--team", "vision").stdout.splitlines()
    assert server.requests[-1].query == {"team": "vision"}
    assert [line.split() for line in shown] == [
        ["id", "name", "acts", "for", "until", "last", "used"],
        ["t8k2m4qz", "laptop", "vision", "(member)", "2099-03-01", "never"],
        ["old", "laptop", "you", "expired", "2019-12-31", "23:59"],
    ]
    server.answers[f"DELETE {API}/tokens/old"] = (204, None)
    assert run("token", "revoke", "old").stdout == "token old is revoked\n"


@pytest.mark.parametrize("days", ["0", "366", "-1", "90 days", "", "d", "1e2", "٣"])
def test_days_must_be_a_number_within_a_year(run: Run, server: Recorded, days: str) -> None:
    result = run("token", "create", "x", f"--expires={days}")
    assert result.exit_code == 2
    assert result.stderr.startswith("--expires: must be a number of days from 1 to 365 (got ")
    assert server.requests == []


def test_teams_and_their_members(run: Run, server: Recorded) -> None:
    server.answers |= {
        f"GET {API}/teams": (
            200,
            {"items": [{**TEAM, "members": []}, {"team": "nlp", "archived_at": "2026-01-01T00:00:00Z"}]},
        ),
        f"POST {API}/teams": (201, {**TEAM, "members": []}),
        f"GET {API}/teams/vision": (200, TEAM),
        f"PUT {API}/teams/vision/members/bob": (200, TEAM),
        f"DELETE {API}/teams/vision/members/bob": (204, None),
        f"POST {API}/teams/vision/archive": (200, {**TEAM, "archived_at": "2026-01-01T00:00:00Z"}),
    }
    assert run("team", "list").stdout.split() == [
        "team", "name", "created", "state", "vision", "Computer", "vision", "nlp", "archived",
    ]  # fmt: skip
    assert run("team", "create", "vision", "--name", "Computer vision").stdout.splitlines()[-1] == (
        "  nobody is in it; `rung team add vision LOGIN` adds a person"
    )
    assert server.requests[-1].body == {"team": "vision", "name": "Computer vision"}
    shown = run("team", "show", "vision").stdout.splitlines()
    assert shown[0] == "team vision (Computer vision)"
    assert [line.split() for line in shown[2:]] == [["alice", "Alice", "Example", "manager"], ["bob", "viewer"]]
    assert run("team", "add", "vision", "bob", "--role", "viewer").exit_code == 0
    assert server.requests[-1].body == {"role": "viewer"}
    result = run("team", "add", "vision", "bob", "--role", "boss")
    assert (result.exit_code, result.stderr) == (
        2,
        '--role: must be one of viewer, member, manager (got "boss")\n',
    )
    assert run("team", "remove", "vision", "bob").stdout == "bob is no member of team vision now\n"
    server.answers[f"POST {API}/teams/vision/unarchive"] = (200, TEAM)
    assert run("team", "unarchive", "vision").stdout.startswith("team vision (Computer vision)\n")
    server.answers[f"GET {API}/teams/vision"] = (200, {**TEAM, "storage": {"used_bytes": 1_250_000_000}})
    assert "  storage   1.25 GB" in run("team", "show", "vision").stdout.splitlines()
    assert run("team", "storage", "vision").stdout == "  storage   1.25 GB\n"
    limited = {**TEAM, "storage": {"used_bytes": 1_250_000_000, "limit_bytes": 1_500_000_000_000}}
    server.answers[f"PUT {API}/teams/vision/storage"] = (200, limited)
    for size, sent in (("1.5TB", 1_500_000_000_000), ("20 kb", 20_000), ("none", None)):
        assert run("team", "storage", "vision", size).stdout == "  storage   1.25 GB of 1.5 TB\n"
        assert server.requests[-1].body == {"limit_bytes": sent}
    result = run("team", "storage", "vision", "much")
    assert (result.exit_code, result.stderr) == (2, 'SIZE: must be a size such as 500GB, or none (got "much")\n')
    assert run("team", "storage", "vision", "9" * 400 + "GB").stderr.startswith("SIZE: must be a size such as 500GB")
    assert run("team", "archive", "vision").stdout.startswith("team vision (Computer vision), archived\n")


def test_people(run: Run, server: Recorded) -> None:
    bob = {"login": "bob", "disabled_at": "2026-11-02T00:00:00Z"}
    server.answers |= {
        f"GET {API}/users": (200, {"items": [{**ALICE, "admin": True}, bob]}),
        f"POST {API}/users": (201, {**ALICE, "admin": True}),
        f"PATCH {API}/users/bob": (200, bob),
        f"POST {API}/auth/password": (204, None),
        f"GET {API}/auth/whoami": (200, {"user": ALICE, "kind": "person", "admin": True}),
    }
    shown = [line.split() for line in run("user", "list").stdout.splitlines()]
    assert shown[1:] == [
        ["alice", "Alice", "Example", "alice@example.com", "admin", "2026-11-01"],
        ["bob", "disabled"],
    ]
    result = run("user", "create", "alice", "--admin", "--password", input="a long enough password\n")
    assert result.stdout == "alice (Alice Example), alice@example.com, admin\n"
    assert server.requests[-1].body == {"login": "alice", "password": "a long enough password", "admin": True}
    run("user", "change", "bob", "--disabled", "--no-admin")
    assert server.requests[-1].body == {"admin": False, "disabled": True}
    assert run("user", "change", "bob").stderr.startswith("rung: there is nothing to change")
    assert run("user", "password", "bob", input="a new one of bob\n").stdout == "the password of bob is changed\n"
    assert server.requests[-1].body == {"password": "a new one of bob"}
    run("user", "password", "alice", input="the old one\nthe new one\n")
    assert server.requests[-1].body == {"old": "the old one", "new": "the new one"}
    server.answers[f"PATCH {API}/users/alice"] = (200, ALICE)
    run("user", "password", "alice", input="\nthe first one\n")
    assert server.requests[-1].body == {"password": "the first one"}
    server.answers[f"GET {API}/auth/whoami"] = (200, {"user": ALICE, "kind": "person", "admin": False})
    run("user", "password", "alice", input="\nthe first one\n")
    assert server.requests[-1].body == {"old": "", "new": "the first one"}


def test_the_audit_log_is_read_page_by_page(run: Run, server: Recorded) -> None:
    entry = {
        "id": 7,
        "at": "2026-11-29T12:00:00Z",
        "kind": "person",
        "principal": "alice",
        "action": "experiment.cancel",
        "object": "experiment/k3v9q2mz",
        "outcome": "done",
    }
    server.answers[f"GET {API}/audit"] = (200, {"items": [entry], "next_after": 7})
    shown = run("audit", "--team", "vision", "--object", "k3v9q2mz", "--limit", "2").stdout.splitlines()
    assert [request.query for request in server.requests] == [
        {"team": "vision", "object": "k3v9q2mz", "limit": "2"},
        {"team": "vision", "object": "k3v9q2mz", "limit": "1", "after": "7"},
    ]
    assert shown[1].split() == ["2026-11-29", "12:00", "alice", "experiment.cancel", "experiment/k3v9q2mz", "done"]
    assert json.loads(run("audit", "--limit", "1", "--json").stdout)[0]["id"] == 7


def test_submissions_and_lists_name_a_team(run: Run, server: Recorded, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("name: first\n")
    server.answers["GET /healthz"] = (200, {"status": "ok"})
    refused = {"type": "urn:rung:problem:invalid", "detail": "team: must be one of nlp, vision", "status": 422}
    for path in ("experiments", "experiments/k3v9q2mz/continue"):
        server.answers[f"POST {API}/{path}"] = (422, refused)
    for arguments in (
        ("submit", str(tmp_path / "spec.yaml")),
        ("continue", "k3v9q2mz"),
        ("validate", str(tmp_path / "spec.yaml")),
    ):
        result = run(*arguments, "--team", "vision")
        assert (result.exit_code, result.stderr) == (2, "rung: team: must be one of nlp, vision\n")
        assert server.requests[-1].query["team"] == "vision"
    server.answers[f"GET {API}/experiments"] = (200, {"items": [], "next_cursor": None})
    run("list", "--team", "vision", "--owner", "alice")
    assert (server.requests[-1].query["team"], server.requests[-1].query["owner"]) == ("vision", "alice")


def test_tables_fit_a_terminal_of_80_columns(run: Run, server: Recorded) -> None:

    token = TokenView(**{**TOKEN, "name": "rung login on laptop", "team": "vision", "role": "manager"})
    entry = AuditEntry(
        id=1, at="2026-11-29T12:00:00Z", kind="person", principal="alice", action="experiment.cancel",
        object="experiment/k3v9q2mz", outcome="refused",
    )  # fmt: skip
    team, user = TeamView.model_validate(TEAM), UserView.model_validate({**ALICE, "admin": True})
    console = Console(width=80, force_terminal=False)
    for shown in (tokens([token]), teams([team]), members(team), users([user]), audit([entry])):
        with console.capture() as drawn:
            console.print(draw(shown))
        assert "…" not in drawn.get(), drawn.get()
