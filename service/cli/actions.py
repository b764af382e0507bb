"""Changing: what a person does to an experiment that exists."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.cli.terminal import (
    AsJson,
    ExperimentId,
    Token,
    Url,
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
        help="dotted fields, values as YAML; null for the default",
        show_default=False,
    ),
]
NoFields = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FIELD=VALUE]...", help="what differs from its spec, values as YAML", show_default=False),
]


@app.command()
def pause(experiment: ExperimentId, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Let an experiment give up its slots, and keep every epoch."""
    with report_errors(as_json), connect(url, token) as client:
        show_view(client.pause(experiment), as_json)


@app.command()
def resume(experiment: ExperimentId, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Queue a paused or failed experiment again, or a complete one that has trials left or a winner to measure."""
    with report_errors(as_json), connect(url, token) as client:
        show_view(client.resume(experiment), as_json)


@app.command()
def cancel(
    experiment: ExperimentId,
    trial: Annotated[int | None, typer.Option(min=0, help="end this trial alone", show_default=False)] = None,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """End an experiment, or one trial of it."""
    with report_errors(as_json), connect(url, token) as client:
        if trial is None:
            show_view(client.cancel(experiment), as_json)
            return
        row = client.cancel_trial(experiment, trial)
        if as_json:
            print_json(row.model_dump(mode="json"))
        else:
            typer.echo(f"trial {row.trial} of {experiment} is {row.state}; its end was asked for")


@app.command()
def change(experiment: ExperimentId, fields: Fields, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Change priority, num_samples, max_concurrent_trials, max_restarts, goal or budget.

    For example: rung change ID num_samples=40 goal=null budget.slot_hours=6

    A complete experiment whose trials have all ended goes on only with more num_samples; a canceled one never: see
    `rung continue`.
    """
    with report_errors(as_json), connect(url, token) as client:
        show_view(client.change(experiment, _patch(fields)), as_json)


@app.command("continue")
def continue_from(
    experiment: ExperimentId, fields: NoFields = None, url: Url = "", token: Token = "", as_json: AsJson = False
) -> None:
    """Queue a new experiment that takes over the trials of one that has ended or is paused.

    Twenty trials more: rung continue ID name=second-night searcher.num_samples=20
    """
    with report_errors(as_json), connect(url, token) as client:
        show_view(client.continue_from(experiment, _patch(fields or [])), as_json)


@app.command()
def archive(experiment: ExperimentId, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Hide an experiment that has ended or is paused from lists."""
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
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Remove an experiment for good, with its files, its runs in MLflow and its models.

    MLflow only hides deleted runs and logged models: `mlflow gc`, run beside its server, removes them for good.
    """
    with report_errors(as_json), connect(url, token) as client:
        view = client.get(experiment)
        if not yes:
            trials = sum(view.trials.values())
            typer.confirm(f"Delete {view.name} ({view.id}) with {trials} trials for good?", abort=True, err=True)
        show_view(client.delete(experiment), as_json)


def _patch(fields: list[str]) -> dict[str, Any]:
    """The merge patch that FIELD=VALUE pairs say. Raises SpecError."""
    from search_spaces.parsing import read
    from search_spaces.problems import Problem, SpecError

    patch: dict[str, Any] = {}
    for field in fields:
        path, sign, text = field.partition("=")
        if not sign or not all(path.split(".")):
            raise SpecError([Problem("FIELD=VALUE", f"a field, = and a value required, got {field!r}")])
        try:
            value = read(f"value: {text}".encode("utf-8", "surrogateescape"), "application/yaml")
        except SpecError as error:
            raise SpecError([Problem(path, problem.rule) for problem in error.problems]) from None
        if value.keys() != {"value"}:
            raise SpecError([Problem(path, f"one value as YAML required, got {text!r}")])
        *outer, last = path.split(".")
        node = patch
        for name in outer:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise SpecError([Problem(path, f"each field once required, got {name} as a value too")])
        if last in node:
            raise SpecError([Problem(path, "each field once required")])
        node[last] = value["value"]
    return patch
