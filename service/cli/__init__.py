"""Command line: `rung`, one command for each action, all of them through the SDK.

The exit statuses are in the help of the application (`terminal.options`).
With `--json` the answer is JSON on standard output, and an error is a problem document on standard error.
Heavy modules are imported inside the commands, so that `rung --help` is fast.
"""

# Importing a module adds its commands; their order here is that of the help.
# ruff: noqa: F401, I001
import sys
from io import BufferedWriter, RawIOBase, TextIOBase, TextIOWrapper
from typing import Any

from service.cli.terminal import INTERRUPTED, app
from service.cli import up
from service.cli import submission
from service.cli import show
from service.cli import queue
from service.cli import insight
from service.cli import logs
from service.cli import actions
from service.cli import specs
from service.cli import data
from service.cli import local
from service.cli import models
from service.cli import login
from service.cli import tokens
from service.cli import teams
from service.cli import webhooks
from service.cli import users
from service.cli import pools
from service.cli import grants
from service.cli import audit
from service.cli import usage
from service.cli import budgets
from service.cli import admin
from service.cli import doctor
from service.cli import backup

__all__ = ["app", "main"]


class ClosedOutput(TextIOBase):
    """In place of a standard output that was closed before this process began: what is printed would vanish."""

    def write(self, text: Any) -> int:
        raise OSError("standard output is closed")


def _buffered(output: TextIOWrapper) -> TextIOWrapper:
    """With PYTHONUNBUFFERED, Python writes once, and ignores that a full disk took only a part of what it was given."""
    if not isinstance(raw := output.buffer, RawIOBase):
        return output
    encoding = output.encoding
    output.detach()
    return TextIOWrapper(BufferedWriter(raw), encoding, line_buffering=True)


def main() -> None:
    """The entry point of the `rung` command."""
    if sys.stdout is None:
        sys.stdout = ClosedOutput()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout = _buffered(sys.stdout)
        sys.stdout.reconfigure(errors="backslashreplace")  # some terminals cannot show every character
    try:
        app()
    except KeyboardInterrupt:  # before or after the command itself, which says what it leaves
        sys.exit(INTERRUPTED)
    except OSError as error:  # such as a full disk that standard output is written to
        sys.exit(f"rung: {error}")
