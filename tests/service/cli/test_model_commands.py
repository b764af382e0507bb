"""`rung model verify` and `rung export` against the real service: what they hand over, print and exit with.

The work itself, with real files on a real MLflow, is in tests/e2e/test_registered_model.py.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from service.cli import app, local_process
from service.context import AppContext
from service.domain import experiments
from tests.support.world import World

Run = Callable[..., Result]
URI, SHA256 = "models:/default.x/1", "5" * 64


@pytest.fixture
def run(client: httpx.Client, tmp_path: Path) -> Run:
    def invoke(*arguments: str, mlflow_uri: str = "http://mlflow") -> Result:
        environment = {"RUNG_URL": str(client.base_url), "RUNG_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": mlflow_uri}
        return CliRunner(env=environment).invoke(app, arguments)

    return invoke


@pytest.fixture
def registered(world: World) -> str:
    """An experiment with a registered model."""
    one = world.ended("failed")
    world.post(one, "resume")
    world.reconciler.reconcile_once()
    winner = world.winner(one) | {"model_uri": URI, "model_sha256": SHA256}
    run = {"mlflow_experiment_id": "7", "mlflow_run_id": "parent"}
    answer = world.beat(one, {"phase": "completed", "winner": winner} | run, attempt=2)
    assert answer.status_code == 200, answer.text
    return one


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the other process is given; it answers with its arguments."""
    seen: list[Any] = []

    def run(command: list[str], input: str, **options: Any) -> Any:
        document = json.loads(input)
        variables = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_WORKSPACE")
        given = (options["env"].get(name) for name in variables)
        login = {name: value for name, value in zip(("login", "token", "workspace"), given, strict=True) if value}
        seen.append((command[command.index("-m") + 1 :], document | login))
        answer = {"model_uri": document["model_uri"], "sha256": document["sha256"], "file": "f", "description": "d"}
        return subprocess.CompletedProcess(command, 0, f"noise\n{json.dumps(answer)}\n", "")

    monkeypatch.setattr(local_process.subprocess, "run", run)
    return seen


def test_the_recorded_digest_is_handed_over(run: Run, registered: str, handed: list[Any]) -> None:
    result = run("model", "verify", registered)
    assert (result.exit_code, result.stdout) == (0, f"{URI} is as Rung registered it (sha256 {SHA256})\n"), (
        result.stderr
    )
    (handed_over,) = handed
    document = {"model_uri": URI, "sha256": SHA256, "tracking_uri": "http://mlflow"}
    assert handed_over == (["workers.winner.cli", "verify"], document)
    assert json.loads(run("model", "verify", registered, "--json").stdout)["sha256"] == SHA256


def test_mlflow_is_where_the_service_links_to(
    run: Run, registered: str, handed: list[Any], client: httpx.Client
) -> None:
    shown = client.get(f"/api/v1/experiments/{registered}").json()["mlflow_url"]
    assert run("model", "verify", registered, mlflow_uri="").exit_code == 0
    assert [document["tracking_uri"] for _, document in handed] == [shown.partition("/#/")[0]]


def test_the_mlflow_of_the_running_stack_gets_its_password_and_no_other_does(
    run: Run, registered: str, handed: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RUNG_HOME", str(tmp_path))
    (tmp_path / "stack.json").write_text(json.dumps({"mlflow": "http://127.0.0.1:5000", "pid": os.getpid()}))
    (tmp_path / "mlflow_password").write_text("secret")
    (tmp_path / "mlflow_password").chmod(0o600)
    for uri in ("http://127.0.0.1:5000", "http://127.0.0.1:5001"):
        assert run("model", "verify", registered, mlflow_uri=uri).exit_code == 0
    assert [document.get("login") for _, document in handed] == ["secret", None]


def test_an_mlflow_of_teams_that_the_service_names_gets_the_token_of_the_service_and_no_other_does(
    run: Run, registered: str, handed: list[Any], context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNG_TOKEN", "rung_p_mine")
    named = context.settings.mlflow_public_url
    assert run("model", "verify", registered, mlflow_uri="").exit_code == 0
    with context.database.write() as session:
        experiments.find(session, registered).mlflow_workspace = "vision"
    for uri in ("", f"{named}/", "http://mlflow"):
        assert run("model", "verify", registered, mlflow_uri=uri).exit_code == 0
    tokens = [(document.get("token"), document.get("workspace")) for _, document in handed]
    assert tokens == [(None, None), *[("rung_p_mine", "vision")] * 2, (None, "vision")]


@pytest.mark.parametrize(("form", "name"), [("onnx", "x.onnx"), ("torchscript", "x.ts"), ("state_dict", "x.pt")])
def test_the_file_has_the_name_of_the_experiment(
    run: Run, registered: str, handed: list[Any], monkeypatch: pytest.MonkeyPatch, form: str, name: str
) -> None:
    monkeypatch.setattr("service.cli.extras.missing_packages", lambda extra: [])
    result = run("export", registered, "--format", form)
    assert (result.exit_code, result.stdout) == (0, "f\nd\n"), result.stderr
    assert handed[0][0] == ["workers.winner.cli", "export", f"--format={form}", f"--out={name}"]
    assert run("export", registered, "--format", form, "-o", "other", "--unverified").exit_code == 0
    assert handed[1][0][3:] == ["--out=other", "--unverified"]


def test_onnx_names_the_extra_that_it_needs(
    run: Run, registered: str, handed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {"worker": [], "onnx": ["onnxscript"]}
    monkeypatch.setattr("service.cli.extras.missing_packages", missing.__getitem__)
    result = run("export", registered, "--format", "onnx")
    assert result.exit_code == 1
    assert "needs the extra onnx; install with `pip install 'rung[onnx]'`" in result.stderr
    assert handed == []


def test_an_experiment_without_a_model_is_reported(run: Run, world: World, handed: list[Any]) -> None:
    one = world.submit()
    for command in (("model", "verify", one), ("export", one, "--format", "state_dict")):
        result = run(*command)
        assert result.exit_code == 1
        assert f"experiment {one} is QUEUED and has no registered model" in result.stderr
    assert handed == []


@pytest.mark.parametrize(("status", "exit_code"), [(1, 1), (2, 2), (-9, 1)])
def test_the_last_line_of_a_failure_is_the_error(
    run: Run, registered: str, monkeypatch: pytest.MonkeyPatch, status: int, exit_code: int
) -> None:
    def fail(command: list[str], **options: Any) -> Any:
        return subprocess.CompletedProcess(command, status, "", "INFO noise\nrung: the files have been changed\n")

    monkeypatch.setattr(local_process.subprocess, "run", fail)
    result = run("model", "verify", registered)
    assert (result.exit_code, result.stderr) == (exit_code, "rung: the files have been changed\n")


@pytest.mark.parametrize(
    ("out", "rule"),
    [
        ("{0}/nowhere/x.onnx", "in a folder that exists (got {0}/nowhere/x.onnx: {0}/nowhere does not exist)"),
        ("{0}/taken/x.onnx", "in a folder that exists (got {0}/taken/x.onnx: {0}/taken is no folder)"),
        ("{0}/folder", "(got {0}/folder: {0}/folder is a folder)"),
        ("{0}/described", "(got {0}/described: {0}/described.json is a folder)"),
        ("/proc/x.pt", "in a folder that can be written to (got /proc/x.pt: "),
        ("{0}/" + "x" * 300, "in a folder that can be written to (got {0}/" + "x" * 300 + ": File name too long)"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_export(
    run: Run, registered: str, handed: list[Any], tmp_path: Path, out: str, rule: str
) -> None:
    (tmp_path / "taken").touch()
    for folder in ("folder", "described.json"):
        (tmp_path / folder).mkdir()
    result = run("export", registered, "--format", "state_dict", "-o", out.format(tmp_path))
    assert (result.exit_code, handed) == (2, [])
    assert result.stderr.startswith(f"--out: must be a file {rule.format(tmp_path)}")


@pytest.mark.parametrize("kind", ["pipe", "link", "described link"])
def test_an_export_replaces_regular_files_only(
    run: Run, registered: str, handed: list[Any], tmp_path: Path, kind: str
) -> None:
    (tmp_path / "aim").write_text("precious")
    out = tmp_path / "x.pt"
    odd = tmp_path / "x.pt.json" if kind.startswith("described") else out
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to(tmp_path / "aim")
    result = run("export", registered, "--format", "state_dict", "-o", str(out))
    assert (result.exit_code, handed) == (2, [])
    rule = f"must be a new or a regular file (got {out}: {odd} is a link, a pipe or a device)"
    assert result.stderr == f"--out: {rule}\n"
    assert (odd.is_fifo() if kind == "pipe" else odd.is_symlink(), (tmp_path / "aim").read_text()) == (True, "precious")


def test_an_exported_file_replaces_the_one_before(run: Run, registered: str, handed: list[Any], tmp_path: Path) -> None:
    out = tmp_path / "new" / "x.pt"
    out.parent.mkdir()
    out.touch()
    assert run("export", registered, "--format", "state_dict", "-o", str(out)).exit_code == 0
    assert f"--out={out}" in handed[0][0]
    assert list(out.parent.iterdir()) == [out], "nothing else is left"


@pytest.mark.parametrize("out", ["taken", "full", "taken/new", "absent/new", "/proc/new"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_download(
    run: Run, registered: str, handed: list[Any], tmp_path: Path, out: str
) -> None:
    (tmp_path / "taken").touch()
    (tmp_path / "full" / "x").mkdir(parents=True)
    result = run("model", "verify", registered, "--out", str(tmp_path / out))
    assert (result.exit_code, handed) == (2, [])
    assert result.stderr.startswith("--out: must be a ")
    assert f"(got {tmp_path / out}" in result.stderr
    assert not (tmp_path / "absent").exists()


def test_a_new_folder_for_a_verified_model_is_made_once_it_is_verified(
    run: Run, registered: str, handed: list[Any], tmp_path: Path
) -> None:
    out = tmp_path / "new"
    assert run("model", "verify", registered, "--out", str(out)).exit_code == 0
    assert f"--out={out}" in handed[0][0]
    assert not out.exists()
