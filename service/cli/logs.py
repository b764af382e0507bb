"""Logs: the command that prints the logs of drivers and trials."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.printable import dump_json, echo
from service.cli.terminal import AsJson, ExperimentId, Token, Url, app, connect, refuse_together, report_errors


@app.command()
def logs(
    experiment: ExperimentId,
    trial: Annotated[int | None, typer.Option(min=0, help="the log of this trial instead of the driver's")] = None,
    attempt: Annotated[int | None, typer.Option(min=1, help="the log of this attempt; default: the newest")] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="keep printing until it ends or is paused"),
    ] = False,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Print the log of a driver or of a trial.

    With --json: one JSON line per chunk.
    """
    from service.cli.rendering import OutageReporter

    def echo_error(line: str) -> None:
        echo(line, err=True)

    with report_errors(as_json), connect(url, token) as client:
        refuse_together(trial=trial is not None, attempt=attempt is not None)  # a trial has one log
        client.ping()  # a wrong URL is reported at once; a service that restarts meanwhile is retried
        found = client.follow_logs(
            experiment, trial=trial, attempt=attempt, until_end=follow, waiting=OutageReporter(echo_error)
        )
        for chunk in found:
            echo(dump_json(chunk.model_dump(mode="json")) if as_json else chunk.text, nl=as_json)
