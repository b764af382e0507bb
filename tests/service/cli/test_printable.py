"""What others wrote reaches a terminal as text: nothing in it moves the cursor, hides a line or sets a title."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

import service.cli
from service.cli import app, identity_tables
from service.cli.console import SafeConsole
from service.cli.identity_tables import person
from service.cli.printable import printable
from service.cli.rendering import draw, leaderboard, listing
from service.client import Client
from service.contract.identity import UserView
from service.settings import Settings
from tests.support.world import World

CLEAR, TITLE, UP, REVERSE = "\x1b[2J\x1b[H", "\x1b]0;owned\x07", "\x9b1A", "\u202e"
HOSTILE = f"be{CLEAR}gin{TITLE}{UP}{REVERSE}\x1b(0\x08\x7fend"
#: By Unicode: controls except tab and newline, separators of lines, and what changes the direction of writing.
DIRECTIONS = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
MARKS = {"\u061c", "\u200e", "\u200f"}
FORBIDDEN = {
    character
    for character in map(chr, range(sys.maxunicode + 1))
    if (unicodedata.category(character) in {"Cc", "Zl", "Zp"} and character not in "\t\n")
    or unicodedata.bidirectional(character) in DIRECTIONS
} | MARKS
ALLOWED = re.compile(f"[^{re.escape(''.join(sorted(FORBIDDEN)))}]*")
Run = Callable[..., Result]


@pytest.fixture
def run(world: World, tmp_path: Path) -> Run:
    environment = {"RUNG_URL": str(world.client.base_url), "RUNG_HOME": str(tmp_path)}
    return lambda *arguments: CliRunner(env=environment).invoke(app, arguments)


@pytest.fixture
def one(world: World, settings: Settings) -> str:
    """A failed experiment, in all of whose texts there are escape sequences."""
    experiment_id = world.started(labels=[HOSTILE[:60]], description=HOSTILE)
    line = world.line(0, state="ERROR", stop_reason=HOSTILE, parameters={HOSTILE: HOSTILE}, best_value=0.5)
    world.beat(experiment_id, {"phase": "searching", "trials": [line, world.line(1, best_value=0.4)]})
    log = Path(settings.storage_root) / experiment_id / "logs" / "driver-a1.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"10 %\r20 %\r\n{HOSTILE}\n")
    world.beat(experiment_id, {"phase": "failed", "reason": HOSTILE})
    return experiment_id


@pytest.mark.parametrize(
    "command",
    [
        ("list",),
        ("show", "ID"),
        ("trials", "ID"),
        ("logs", "ID"),
        ("watch", "ID"),
        ("pause", "ID"),
        ("cancel", "ID", "--trial", "0"),
        ("show", HOSTILE),
        ("validate", "--offline", HOSTILE),
        ("presets", HOSTILE),
    ],
    ids=lambda command: " ".join(command[:2]) if HOSTILE not in command else f"{command[0]} of a hostile name",
)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_no_command_prints_control_characters(run: Run, one: str, command: tuple[str, ...], as_json: bool) -> None:
    arguments = [one if argument == "ID" else argument for argument in command]
    result = run(*arguments, *(["--json"] if as_json else []))
    assert result.stdout or result.stderr
    assert ALLOWED.fullmatch(result.stdout), result.stdout
    assert ALLOWED.fullmatch(result.stderr), result.stderr


def test_json_loses_nothing(run: Run, one: str) -> None:
    assert json.loads(run("show", one, "--json").stdout)["reason"] == HOSTILE
    assert HOSTILE in json.loads(run("logs", one, "--json").stdout)["text"]


def test_a_log_keeps_its_lines(run: Run, one: str) -> None:
    assert run("logs", one).stdout == "10 %\n20 %\nbeginend\n"


def test_a_terminal_gets_the_colors_of_the_command_only(world: World, one: str) -> None:
    written = io.StringIO()
    console = SafeConsole(file=written, force_terminal=True, color_system="standard", width=200)
    with Client(str(world.client.base_url)) as client:
        console.print(listing(client.list()))
        console.print(leaderboard(list(client.trials(one)), "validation_accuracy", 200))
    text = written.getvalue()
    assert "\x1b[31mERROR" in text
    assert ALLOWED.fullmatch(re.sub(r"\x1b\[[0-9;]*m", "", text)), text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain größer 日本 \t\n", "plain größer 日本 \t\n"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq#0\x1b\\image", "image"),
        ("a\x1b]0;without an end", "a0;without an end"),
        ("a\x1b", "a"),
        ("\x1bcreset", "reset"),
        ("one\rtwo\r\nthree", "one\ntwo\nthree"),
        ("keep\n\x1b]0;start\nhidden?\x07end", "keep\n0;start\nhidden?end"),
        ("a\x9d\x9d0;title\x07b", "ab"),
    ],
)
def test_sequences_are_removed_whole(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_each_control_character_is_removed() -> None:
    assert printable("a".join(sorted(FORBIDDEN - {"\r", "\x1b", "\x9b"}))).replace("a", "").replace("\n", "") == ""


def test_a_log_full_of_introducers_is_searched_once() -> None:
    """If each of them searched the rest of the log, this would take hours."""
    assert printable("\x9d" * 1_000_000 + "end") == "end"


def test_everything_is_printed_at_one_place() -> None:
    found: set[tuple[str, str]] = set()
    for path in Path(service.cli.__path__[0]).glob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        for call in calls:
            name: Any = ast.unparse(call)
            if name in {"print", "Console", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write"}:
                found.add((path.name, name))
    assert found == {("printable.py", "typer.echo")}


def test_a_stored_name_forges_no_rows() -> None:
    hostile = "Ada\nroot  Root  admin\r\nx\ty"
    written = io.StringIO()
    SafeConsole(file=written, width=200).print(
        draw(identity_tables.users([UserView(login="ada", name=hostile, email="", created_at=None)]))
    )
    assert len(written.getvalue().splitlines()) == 2, "the headings and one row"
    assert person("ada", hostile) == "ada (Ada root  Root  admin x y)"


@pytest.mark.parametrize(
    "prints", ["sys.argv.append('--help')", "service.cli.app = lambda: open_console().print('a table')"]
)
def test_what_is_printed_into_a_closed_output_is_an_error(prints: str) -> None:
    script = f"import sys, service.cli; from service.cli.terminal import open_console; {prints}; service.cli.main()"
    command = ["/bin/sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, script]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "rung: standard output is closed\n")


def test_output_that_a_full_disk_cuts_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    command = [sys.executable, "-c", "import service.cli; service.cli.main()", "schema"]
    limit = ["/bin/sh", "-c", 'ulimit -f 8; exec "$@" > "$0"', str(file), *command]  # blocks of 512 bytes
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(limit, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (1, "rung: [Errno 27] File too large\n")
    assert file.stat().st_size == 4096


def test_ctrl_c_outside_a_command_ends_with_130() -> None:
    script = (
        "import service.cli, signal; service.cli.app = lambda: signal.raise_signal(signal.SIGINT); service.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")
