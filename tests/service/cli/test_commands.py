"""What the command line does without an experiment: help, presets, schema, and the service's address."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner

from service.cli import app
from service.client.client import SUBMIT_RETRY_S

SPEC = "name: first\nsearcher: {kind: random, num_samples: 3}\n"


def test_the_readme_names_every_command_that_needs_the_worker() -> None:
    root = Path(__file__).parents[3]
    modules = [path.read_text(encoding="utf-8") for path in (root / "service" / "cli").glob("*.py")]
    needed = {name for text in modules for name in re.findall(r'require\("([a-z ]+)", "worker"', text)}
    [row] = re.findall(
        r"^\| `pip install '\.\[worker\]'` \|(.*)", (root / "README.md").read_text("utf-8"), re.MULTILINE
    )
    assert len(needed) > 4
    assert set(re.findall(r"`rung ([a-z ]+)`", row)) == needed


def test_the_readme_names_commands_and_targets_that_exist() -> None:
    root = Path(__file__).parents[3]
    text = (root / "README.md").read_text(encoding="utf-8")
    commands = {str(command.name or getattr(command.callback, "__name__", "")) for command in app.registered_commands}
    commands |= {str(group.name or group.typer_instance.info.name) for group in app.registered_groups}
    named = set(re.findall(r"(?:`|bin/)rung ([a-z]+)", text))
    for more in re.findall(r"also ((?:[a-z]+, )+[a-z]+)", text):
        named |= set(more.split(", "))
    assert len(named) > 10
    assert named <= commands
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, flags=re.MULTILINE)) <= targets


def test_schema_and_presets_need_no_service(tmp_path: Path) -> None:
    runner = CliRunner(env={"RUNG_URL": "http://127.0.0.1:9", "RUNG_HOME": str(tmp_path)})
    assert "search_space" in json.loads(runner.invoke(app, ["schema"]).stdout)["properties"]
    assert "digits-quick" in runner.invoke(app, ["presets"]).stdout
    assert runner.invoke(app, ["presets", "digits-quick"]).stdout.startswith("#")
    assert json.loads(runner.invoke(app, ["presets", "digits-quick", "--json"]).stdout)["spec"]["name"]


def test_an_unreachable_service_is_reported_at_once(tmp_path: Path) -> None:
    runner = CliRunner(env={"RUNG_URL": "http://127.0.0.1:9", "RUNG_HOME": str(tmp_path)})
    (tmp_path / "spec.yaml").write_text(SPEC)
    begun = time.monotonic()
    result = runner.invoke(app, ["submit", str(tmp_path / "spec.yaml")])
    assert result.exit_code == 3
    assert time.monotonic() - begun < SUBMIT_RETRY_S, "the command does not wait for a service that was never there"
    result = runner.invoke(app, ["list"])
    assert result.exit_code == 3
    assert "http://127.0.0.1:9" in result.stderr
    assert "`rung up`" in result.stderr
    assert json.loads(runner.invoke(app, ["list", "--json"]).stderr)["type"].endswith("unreachable")


def test_the_address_that_up_wrote_down(client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text(json.dumps({"pid": 1, "service": str(client.base_url)}))
    runner = CliRunner(env={"RUNG_HOME": str(tmp_path)})
    assert runner.invoke(app, ["list", "--json"]).stdout == "[]\n"
    (tmp_path / "stack.json").write_text("{")
    assert runner.invoke(app, ["list", "--url", str(client.base_url), "--json"]).stdout == "[]\n"


def test_wrong_commands() -> None:
    for arguments in (["nonsense"], ["show"], ["list", "--limit", "0"], ["trials", "x", "--unheard"]):
        assert CliRunner().invoke(app, arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["explain", "foo"],
            "'topic': must be one of schedulers, optimizers, normalization, augmentation (got foo)",
        ),
        (["export", "x", "--format", "a is not one of b"], "(got a is not one of b)"),
        (["export", "x", "--format", "zip"], "'--format': must be one of onnx, torchscript, state_dict (got zip)"),
        (["list", "--limit", "0"], "'--limit': must be at least 1 (got 0)"),
        (["reproduce", "x", "one"], "'trial': must be a whole number (got one)"),
        (["watch", "x", "--interval", "soon"], "'--interval': must be a number (got soon)"),
        (["watch", "x", "--interval", "0.001"], "'--interval': must be at least 0.05 (got 0.001)"),
        (["model", "verify", "x", "--out"], "Option '--out' requires an argument"),
    ],
)
def test_a_wrong_argument_is_reported_with_the_rule_and_what_was_given(arguments: list[str], said: str) -> None:
    result = CliRunner(env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert "Value error" not in result.stderr


def test_help_brings_nothing_heavy() -> None:
    code = (
        "import sys, service.cli as cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert "submit" in done.stdout
    for heavy in ("ray", "mlflow", "torch", "sqlalchemy", "fastapi", "httpx", "pydantic"):
        assert f"'{heavy}'" not in done.stderr


def leaves(command: Any) -> Iterator[Any]:
    """The commands of a group, at any depth."""
    below = getattr(command, "commands", None)
    if below is None:
        yield command
        return
    for one in below.values():
        yield from leaves(one)


def test_the_help_cuts_no_summary_and_every_command_accepts_json() -> None:
    runner = CliRunner(env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    summary = runner.invoke(app, ["--help"]).stdout.partition("Commands:")[2]
    assert "Pause an experiment." in summary
    assert "..." not in summary
    names = [line.split()[0] for line in summary.splitlines() if line.strip()]
    assert len(names) > 20
    commands = list(leaves(typer.main.get_command(app)))
    assert len(commands) > len(names)
    assert [one.name for one in commands if not any("--json" in option.opts for option in one.params)] == []
