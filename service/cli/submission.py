"""Submission: the commands that queue and watch an experiment."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from service.cli.printable import echo
from service.cli.specs import resolve_spec, show_checked
from service.cli.terminal import (
    FAILED,
    INTERRUPTED,
    AsJson,
    ExperimentId,
    Interval,
    SpecFile,
    Team,
    Token,
    Url,
    Watch,
    app,
    connect,
    open_console,
    refuse_together,
    report_errors,
    show_view,
)

if TYPE_CHECKING:
    from service.client import Client
    from service.contract.schemas import ExperimentView


@app.command()
def submit(
    spec: SpecFile,
    watch: Watch = False,
    preset: Annotated[bool, typer.Option("--preset", help="SPEC is the name of a preset")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only check it, and say what the search will probably take")
    ] = False,
    team: Team = None,
    interval: Interval = 0.5,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Queue an experiment and print its summary.

    For scripts, add --json.
    """
    with report_errors(as_json), connect(url, token) as client:
        refuse_together(dry_run=dry_run, watch=watch)
        client.ping()  # an unreachable service is reported at once; one that restarts meanwhile is retried
        document = resolve_spec(client, f"preset:{spec}" if preset else spec)
        if dry_run:
            checked = client.submit(document, validate_only=True, team=team)
            show_checked(checked.model_dump(mode="json"), as_json)
            return
        view = client.submit(document, team=team)
        if watch:
            watch_queued(client, view, interval, as_json)
        show_view(view, as_json)


@app.command()
def watch(
    experiment: ExperimentId, interval: Interval = 0.5, url: Url = "", token: Token = "", as_json: AsJson = False
) -> None:
    """Show the progress of an experiment until it ends or is paused."""
    with report_errors(as_json), connect(url, token) as client:
        client.ping()  # as above
        watch_to_end(client, experiment, interval, as_json)


def watch_queued(client: Client, view: ExperimentView, interval: float, as_json: bool) -> NoReturn:
    """Show the progress of an experiment that a person has queued just now."""
    for line in (f"{view.name} ({view.id})", *(f"warning: {warning}" for warning in view.warnings)):
        echo(line, err=True)
    watch_to_end(client, view.id, interval, as_json)


def watch_to_end(client: Client, experiment_id: str, interval: float, as_json: bool) -> NoReturn:
    """Show the progress of an experiment until it ends or is paused, and exit with the status that says how."""
    from service.cli.rendering import insight_in_short
    from service.cli.rendering import watch as follow
    from service.contract.errors import RungError, UnavailableError
    from service.contract.states import State

    try:
        view = follow(client, experiment_id, open_console(stderr=as_json), interval)
    except KeyboardInterrupt:
        echo(
            f"\n{experiment_id} keeps running; `rung watch {experiment_id}` shows it, "
            f"`rung cancel {experiment_id}` ends it",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    except UnavailableError as error:
        echo(f"{experiment_id} keeps running without the service; `rung watch {experiment_id}` shows it", err=True)
        raise error
    show_view(view, as_json)
    if view.state == State.COMPLETED and not as_json:
        with contextlib.suppress(RungError):  # there is none, or it can be asked for later
            echo(insight_in_short(client.insight(experiment_id), experiment_id))
    if view.state == State.PAUSED:
        echo(f"{experiment_id} is paused; `rung resume {experiment_id}` resumes it", err=True)
    raise typer.Exit(0 if view.state == State.COMPLETED else FAILED)
