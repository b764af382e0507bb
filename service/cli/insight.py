"""Insight: the command that says why a winner won, how sure that is, and what to try next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from service.cli.printable import echo
from service.cli.terminal import AsJson, ExperimentId, Token, Url, app, connect, print_json, report_errors


@app.command()
def insight(
    experiment: ExperimentId,
    following: Annotated[
        bool, typer.Option("--next", help="print the spec to try next, as YAML, instead of the insight")
    ] = False,
    path: Annotated[
        bool,
        typer.Option(
            "--path",
            help="print a spec, as YAML, that trains the configurations from the defaults to the winner, with fresh "
            "seeds",
        ),
    ] = False,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Say why the winner won, how sure, what next.

    For a completed experiment: the trials that cannot be distinguished from the winner, the accuracy to expect of it,
    the hyperparameters that matter, what led from the defaults to the winner, what the curves and the search space
    show, and a spec to try next.
    """
    with report_errors(as_json), connect(url, token) as client:
        found = client.insight(experiment)
        if following:
            suggests = f"the results of experiment {experiment} suggest no change of its spec"
            _print_spec(found.next.spec, found.next.changes, otherwise=suggests, as_json=as_json)
            return
        if path:
            unknown = f"the results of experiment {experiment} do not tell what led from the defaults to its winner"
            spec = found.path.spec if found.path else None
            _print_spec(spec, ["the defaults, each change, and the winner"], otherwise=unknown, as_json=as_json)
            return
        if as_json:
            print_json(found.model_dump(mode="json"))
            return
        from service.cli.rendering import insight_lines, summary

        view = client.get(experiment)
        echo(summary(view)[0])
        for line in insight_lines(found, experiment, view.warnings):
            echo(line)


def _print_spec(spec: Mapping[str, Any] | None, comments: Iterable[str], *, otherwise: str, as_json: bool) -> None:
    """Print a spec as YAML after comments, or as JSON. Raises ConflictError with `otherwise` where there is none."""
    if spec is None:
        from service.contract.errors import ConflictError

        raise ConflictError(otherwise)
    if as_json:
        print_json(spec)
        return
    import yaml

    lines = "".join(f"# {comment}\n" for comment in comments)
    echo(lines + yaml.safe_dump(dict(spec), sort_keys=False, allow_unicode=True), nl=False)
