"""Admin: the command that creates the first administrator, on the machine of the service.

It runs a process of the server's, which reads the service's settings and writes to its database.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import typer

from service.cli.printable import echo
from service.cli.teams import Login
from service.cli.terminal import WRONG, AsJson, app, print_json, report_errors

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Set up a service, on its own machine.")
app.add_typer(group, name="admin")
#: The module that creates the administrator. It prints the token, or one line about what is wrong.
FIRST_ADMIN = "service.identity.first_admin"


@group.command()
def init(
    login: Login,
    again: Annotated[
        bool, typer.Option("--again", help="also if there is an administrator, whose token was lost")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Create the first administrator and print a token.

    Reads the RUNG_* settings of the service and writes to its database. A person who may do this owns the service.
    """
    with report_errors(as_json):
        from service.cli.extras import require
        from service.contract.errors import ConflictError, InternalError

        require("admin init", "server")
        command = [sys.executable, "-m", FIRST_ADMIN, login, *(["--again"] if again else [])]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["it ended without a message"]
            expected = done.returncode == WRONG
            raise (ConflictError if expected else InternalError)("\n".join(lines if expected else lines[-1:]))
        token = done.stdout.strip()
        if as_json:
            print_json({"login": login, "token": token})
            return
        echo(f"{login} administers the service now. This token is not shown again:", err=True)
        echo(token)
        echo("Next: `rung login --url URL --with-token`, then `rung user create` and `rung team create`.", err=True)
