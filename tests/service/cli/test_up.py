"""The command `rung up`: what it prints, in lines and in JSON, and its exit status. No stack is started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service import stack
from service.cli import app
from service.stack import embedded
from service.stack.children import Children


def test_up_speaks_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    at = stack.Addresses(pid=1, service="http://s", mlflow="http://m", ray_dashboard="http://r", data_root="/d")

    class Running:
        addresses = at
        mlflow = at.mlflow
        ignored = ()
        missing = ()

        def watch(self, ended: object) -> None:
            """Ctrl-C comes at once."""

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(embedded, "running", lambda *_: contextlib.nullcontext(Running()))
    result = CliRunner().invoke(app, ["up", "--home", str(tmp_path), "--json"])
    assert (result.exit_code, json.loads(result.stdout)) == (0, asdict(at))
    plain = CliRunner().invoke(app, ["up", "--home", str(tmp_path)]).stdout.splitlines()
    assert plain[1:4] == ["  Service    http://s", "  API docs   http://s/docs", "  MLflow     http://m"]

    def refuse(*_: object) -> None:
        raise stack.StackError("port 1 cannot be used")

    monkeypatch.setattr(embedded, "running", refuse)
    result = CliRunner().invoke(app, ["up", "--home", str(tmp_path), "--json"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert json.loads(result.stderr)["detail"] == "port 1 cannot be used"


def test_a_locale_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    """Python then takes the bytes of a path for something else."""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [str(Path(sys.executable).with_name("rung")), "up", "--home", str(tmp_path / "\u00fc")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Python must read paths as UTF-8" in done.stderr
    assert "(got ascii)" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--port", "70000"), "--port must be between 0 and 65535 (got 70000)"),
        (("--mlflow-port", "-1"), "--mlflow-port must be between 0 and 65535 (got -1)"),
        (
            ("--port", "{port}", "--mlflow-port", "{port}"),
            "--mlflow-port {port} of 127.0.0.1 cannot be used: --port is",
        ),
        (
            ("--host", "0.0.0.0", "--port", "{port}", "--ray-dashboard-port", "{port}"),
            "--ray-dashboard-port {port} of 127.0.0.1 cannot be used: --port is the same",
        ),
        (("--home", os.fsdecode(b"/tmp/caf\xe9")), "the path of the home folder must be UTF-8 (got /tmp/caf\\xe9)"),
        (("--host", "203.0.113.7"), "of 203.0.113.7 cannot be used: Cannot assign requested address"),
        (("--data-root", "/none"), "--data-root must be an existing folder (got /none)"),
        (("--home", "/dev/null/home"), "cannot use the home folder /dev/null/home: Not a directory"),
        (("--home", ""), '--home: must be a folder (got "")'),
        (("--home", "~nobody-has-this-name/x"), "RUNG_HOME: there is no home folder for ~nobody-has-this-name/x"),
    ],
)
def test_options_of_up_that_cannot_be_used_are_usage_errors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a part was started")

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("RUNG_ALLOWED_HOSTS", "*")
    monkeypatch.setattr(Children, "spawn", refuse)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    given = [option.replace("{port}", port) for option in options]
    result = CliRunner().invoke(app, ["up", "--home", str(tmp_path), *given])
    assert (result.exit_code, result.stdout) == (2, "")
    assert said.replace("{port}", port) in result.stderr
