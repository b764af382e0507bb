"""Audit: the command that shows who changed what."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.terminal import AsJson, Token, Url, app, connect, print_models, print_table, report_errors


@app.command()
def audit(
    team: Annotated[str | None, typer.Option(help="of this team, which you manage; default: of the service")] = None,
    object_id: Annotated[
        str | None, typer.Option("--object", metavar="ID", help="of this object, such as an experiment")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="maximum number of results")] = 20,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Show who changed what, the newest first.

    For managers of a team and administrators. With --json, entries have the address, the request and the change.
    """
    with report_errors(as_json), connect(url, token) as client:
        found = list(client.identity.audit(team=team, object_id=object_id, limit=limit))
        if as_json:
            print_models(found)
            return
        from service.cli.identity_tables import audit as shown

        print_table(shown(found))
