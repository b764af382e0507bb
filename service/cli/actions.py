"""Actions: the commands that change an existing experiment."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.cli.printable import echo
from service.cli.submission import watch_queued
from service.cli.terminal import (
    AsJson,
    ExperimentId,
    Interval,
    Team,
    Token,
    Url,
    Watch,
    app,
    connect,
    print_json,
    report_errors,
    show_view,
)

Fields = Annotated[
    list[str],
    typer.Argument(
        metavar="FIELD=VALUE...",
        help="dotted field names with YAML values; null restores the default of a field that has one",
        show_default=False,
    ),
]
NoFields = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FIELD=VALUE]...", help="changes to its spec: dotted field names with YAML values", show_default=False
    ),
]


@app.command()
def pause(experiment: ExperimentId, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Pause an experiment.

    It releases its slots and keeps every finished epoch.
    """
    with report_errors(as_json), connect(url, token) as client:
        show_view(client.pause(experiment), as_json)


@app.command()
def resume(
    experiment: ExperimentId,
    watch: Watch = False,
    interval: Interval = 0.5,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Resume an experiment.

    Queues a paused or failed experiment again, or a completed one that has work left.
    """
    with report_errors(as_json), connect(url, token) as client:
        view = client.resume(experiment)
        if watch:
            watch_queued(client, view, interval, as_json)
        show_view(view, as_json)


@app.command()
def cancel(
    experiment: ExperimentId,
    trial: Annotated[int | None, typer.Option(min=0, help="cancel only this trial", show_default=False)] = None,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Cancel an experiment, or one of its trials."""
    with report_errors(as_json), connect(url, token) as client:
        if trial is None:
            show_view(client.cancel(experiment), as_json)
            return
        row = client.cancel_trial(experiment, trial)
        if as_json:
            print_json(row.model_dump(mode="json"))
        else:
            echo(f"trial {row.trial} of {experiment} is {row.state}; cancellation requested")


@app.command()
def change(experiment: ExperimentId, fields: Fields, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Change the controls of an experiment.

    These are priority, num_samples, max_concurrent_trials, max_restarts, goal and budget.

    For example: rung change ID num_samples=40 goal=null budget.slot_hours=6

    A completed experiment whose trials have all ended continues only if you increase num_samples. A canceled experiment
    cannot be changed; use `rung continue`.
    """
    with report_errors(as_json), connect(url, token) as client:
        show_view(client.change(experiment, parse_changes(fields)), as_json)


@app.command("continue")
def continue_from(
    experiment: ExperimentId,
    fields: NoFields = None,
    watch: Watch = False,
    team: Team = None,
    interval: Interval = 0.5,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Start a new experiment from another's trials.

    The new experiment has the other's spec with your changes, and imports its trials. The other must have ended or be
    paused. dataset, search_space, max_epochs, early_stopping, objective.metric, objective.mode and seed must stay.
    The names of `rung change` are accepted too, such as num_samples for searcher.num_samples.

    For twenty more trials: rung continue ID name=second-night num_samples=20
    """
    with report_errors(as_json), connect(url, token) as client:
        view = client.continue_from(experiment, parse_changes(_in_spec(fields or [])), team=team)
        if watch:
            watch_queued(client, view, interval, as_json)
        show_view(view, as_json)


@app.command()
def archive(experiment: ExperimentId, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Hide an experiment from lists.

    It must have ended or be paused.
    """
    with report_errors(as_json), connect(url, token) as client:
        show_view(client.archive(experiment), as_json)


@app.command()
def unarchive(experiment: ExperimentId, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Show an archived experiment in lists again."""
    with report_errors(as_json), connect(url, token) as client:
        show_view(client.unarchive(experiment), as_json)


@app.command()
def delete(
    experiment: ExperimentId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask for confirmation")] = False,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Delete an experiment and its data.

    Removes its files, its MLflow runs and its models. MLflow only marks runs and logged models as deleted; run
    `mlflow gc` on the MLflow server to remove them.
    """
    with report_errors(as_json), connect(url, token) as client:
        from search_spaces.phrases import counted

        view = client.get(experiment)
        if not yes:
            trials = counted(sum(view.trials.values()), "trial")
            typer.confirm(f"Delete {view.name} ({view.id}) with {trials} permanently?", abort=True, err=True)
        show_view(client.delete(experiment), as_json)


def _in_spec(fields: list[str]) -> list[str]:
    """FIELD=VALUE pairs of a spec: a field that `rung change` names gets its name in the spec."""
    from search_spaces.controls import SPEC_PATHS

    pairs = [field.partition("=") for field in fields]
    return [f"{SPEC_PATHS.get(name, name)}{sign}{value}" for name, sign, value in pairs]


def parse_changes(fields: list[str]) -> dict[str, Any]:
    """The merge patch that FIELD=VALUE pairs describe. Raises SpecError."""
    from search_spaces.parsing import read
    from search_spaces.problems import Problem, SpecError

    patch: dict[str, Any] = {}
    for field in fields:
        path, sign, text = field.partition("=")
        if not sign or not all(path.split(".")):
            raise SpecError([Problem("FIELD=VALUE", f"must be a field, = and a value (got {field!r})")])
        try:
            value = read(f"value: {text}".encode("utf-8", "surrogateescape"), "application/yaml")
        except SpecError as error:
            raise SpecError([Problem(path, problem.rule) for problem in error.problems]) from None
        if value.keys() != {"value"}:
            raise SpecError([Problem(path, f"must be one YAML value (got {text!r})")])
        *outer, last = path.split(".")
        node = patch
        for name in outer:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise SpecError([Problem(path, f"must be given once (got {name} as a value too)")])
        if last in node:
            raise SpecError([Problem(path, "must be given once")])
        node[last] = value["value"]
    return patch
