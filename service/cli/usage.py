"""Usage: the command that shows what was used in a month."""

from __future__ import annotations

import csv
import io
from typing import Annotated

import typer

from service.cli.printable import echo
from service.cli.terminal import (
    AsJson,
    Token,
    Url,
    app,
    connect,
    print_json,
    print_table,
    refuse_together,
    report_errors,
)
from service.contract.usage_by import UsageBy


@app.command()
def usage(
    month: Annotated[
        str | None, typer.Option(metavar="YYYY-MM", help="month, in UTC; default: the current one", show_default=False)
    ] = None,
    by: Annotated[UsageBy, typer.Option(help="what is summed up in each team")] = UsageBy.TEAM,
    team: Annotated[str | None, typer.Option(help="only this team", show_default=False)] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="print comma-separated values with a heading")] = False,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Show the slot, GPU and CPU hours of your teams in a month.

    For administrators, of all teams.
    """
    with report_errors(as_json), connect(url, token) as client:
        refuse_together(csv=as_csv, json=as_json)
        found = client.accounting.usage(month=month, by=by, team=team)
        if as_json:
            print_json(found.model_dump(mode="json"))
            return
        from service.cli.usage_tables import usage as shown

        table = shown(found)
        if as_csv:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(["month", *(heading.replace(" ", "_") for heading in table.headings)])
            writer.writerows([found.month, *row] for row in table.rows)
            echo(text.getvalue(), nl=False)
        elif table.rows:
            print_table(table)
        else:
            echo(f"nothing was used in {found.month}")
