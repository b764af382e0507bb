"""Show: the commands that display experiments, their trials and curves."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from service.cli.printable import echo
from service.cli.terminal import (
    AsJson,
    ExperimentId,
    Token,
    Url,
    app,
    connect,
    open_console,
    print_json,
    print_models,
    report_errors,
    show_view,
)
from service.contract.states import State

SHOWN = 20  # results, unless asked for more


@app.command("list")
def list_experiments(
    state: Annotated[str | None, typer.Option(help=f"filter by state: {', '.join(State)}")] = None,
    project: Annotated[str | None, typer.Option(help="filter by project")] = None,
    name: Annotated[str | None, typer.Option(help="filter by substring of the name")] = None,
    label: Annotated[str | None, typer.Option(help="filter by label")] = None,
    team: Annotated[str | None, typer.Option(help="filter by team")] = None,
    owner: Annotated[str | None, typer.Option(help="filter by login of who submitted it")] = None,
    archived: Annotated[bool, typer.Option("--archived", help="list archived experiments instead")] = False,
    limit: Annotated[int, typer.Option(min=1, help="maximum number of results")] = SHOWN,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """List experiments, the newest first."""
    with report_errors(as_json), connect(url, token) as client:
        wanted = state.upper() if state and state.upper() in State.__members__ else state
        of_whom = {"team": team, "owner": owner}
        found = list(
            client.list(
                state=wanted, project=project, name=name, label=label, archived=archived, limit=limit, **of_whom
            )
        )
        if as_json:
            print_models(found)
            return
        from service.cli.rendering import listing

        open_console().print(listing(found))


@app.command()
def show(experiment: ExperimentId, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Show an experiment: state, best trial, disk use, data."""
    with report_errors(as_json), connect(url, token) as client:
        view = client.get(experiment)
        show_view(view, as_json)
        if not as_json:
            from service.cli.rendering import data_lines, disk_use, insight_in_short, outcome
            from service.contract.errors import NotFoundError, RungError

            if view.best:
                echo(outcome(client.trial(experiment, view.best.trial)))
            with contextlib.suppress(RungError):  # not completed, unreadable, or a service of version 0.1 answers
                echo(insight_in_short(client.insight(experiment), experiment))
            echo(disk_use(client.storage(experiment)))
            with contextlib.suppress(NotFoundError):  # no trial has read them yet
                for line in data_lines(client.data(experiment), view.warnings):
                    echo(line)


@app.command()
def compare(
    experiments: Annotated[list[str], typer.Argument(metavar="ID ID...", help="ids of 2 to 10 experiments")],
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Compare the results and the specs of experiments.

    The best trials are compared by what any of the experiments searches. Two links to MLflow follow: the experiments
    side by side, and the curves of the best trials of each.
    """
    with report_errors(as_json), connect(url, token) as client:
        found = client.compare(*experiments)
        if as_json:
            print_json(found.model_dump(mode="json"))
            return
        from service.cli.rendering import compared, comparison_links

        console = open_console()
        for table in compared(found):
            console.print(table)
        for line in comparison_links(found):
            echo(line)


@app.command()
def trials(
    experiment: ExperimentId,
    sort: Annotated[
        str | None,
        typer.Option(
            help="trial, state, epoch, best_value, started_at, ended_at or a metric; prefix - for descending; default: "
            "the best trial first"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"maximum number of results; default: {SHOWN}, with --replicates all")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="show all trials")] = False,
    replicates: Annotated[
        bool, typer.Option("--replicates", help="show the runs of the finalists with fresh seeds instead")
    ] = False,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Show the leaderboard of an experiment.

    For each trial: its best value, the epoch of that value (at), its searched hyperparameters, and why it stopped.
    """
    with report_errors(as_json), connect(url, token) as client:
        from search_spaces.phrases import counted
        from search_spaces.searched import searched_parameters
        from service.cli.rendering import leaderboard
        from service.presentation.experiments import best_first

        view = client.get(experiment)
        most = None if every else limit or (None if replicates else SHOWN)
        found = list(client.trials(experiment, sort=sort or best_first(view), limit=most, replicates=replicates))
        if as_json:
            print_models(found)
            return
        console = open_console()
        searched = searched_parameters(view.spec.get("search_space"))
        console.print(leaderboard(found, view.metric, console.width, searched))
        if not replicates and (more := sum(view.trials.values()) - len(found)) > 0:
            echo(f"{counted(more, 'more trial')}: --all shows them, --limit N shows N", err=True)


@app.command()
def curves(
    experiment: ExperimentId,
    trial: Annotated[int, typer.Argument(min=0, help="number of the trial, from 0")],
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Show every metric of a trial, one line per epoch."""
    with report_errors(as_json), connect(url, token) as client:
        found = client.curves(experiment, trial)
        if as_json:
            print_json(found.model_dump(mode="json"))
            return
        from service.cli.rendering import epochs

        open_console().print(epochs(found))
