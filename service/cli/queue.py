"""Queue: the commands that show the cluster, how it is shared, and what waits for it."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.printable import echo
from service.cli.terminal import AsJson, Token, Url, app, connect, open_console, print_json, report_errors
from service.contract.states import State


@app.command()
def queue(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="maximum number of experiments")] = 20,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Show which experiments wait, for what, and for how long probably."""
    with report_errors(as_json), connect(url, token) as client:
        found = client.queue(limit=limit)
        if as_json:
            print_json(found.model_dump(mode="json"))
            return
        from search_spaces.phrases import counted
        from service.cli.rendering import queue_lines, waiting

        if found.items:
            open_console().print(waiting(found))
        else:
            echo("no experiment waits" if not found.waiting_of_others else "no experiment of your teams waits")
        for line in queue_lines(found):
            echo(line)
        if found.waiting_of_others:
            others = counted(found.waiting_of_others, "more experiment waits", "more experiments wait")
            echo(f"of other teams, {others}")
        if (more := found.waiting - len(found.items)) > 0:
            echo(f"{counted(more, 'more experiment')}: --limit N shows N", err=True)


@app.command()
def cluster(url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Show the nodes of the cluster, and the slots of each experiment."""
    with report_errors(as_json), connect(url, token) as client:
        found = client.cluster()
        if as_json:
            print_json(found.model_dump(mode="json"))
            return
        from service.cli.rendering import nodes, shares

        if not found.reachable:
            echo(found.detail, err=True)
        console = open_console()
        console.print(nodes(found))
        if any(share.state != State.QUEUED for share in found.shares):
            echo("")
            console.print(shares(found))
