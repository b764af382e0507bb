"""Insight: the command that says why a winner won, how sure that is, and what to try next."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.printable import echo
from service.cli.terminal import AsJson, ExperimentId, Token, Url, app, connect, print_json, report_errors


@app.command()
def insight(
    experiment: ExperimentId,
    following: Annotated[
        bool, typer.Option("--next", help="print the spec to try next, as YAML, instead of the insight")
    ] = False,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Say why the winner won, how sure, what next.

    For a completed experiment: the trials that cannot be distinguished from the winner, the accuracy to expect of it,
    the hyperparameters that matter, what the curves and the search space show, and a spec to try next.
    """
    with report_errors(as_json), connect(url, token) as client:
        found = client.insight(experiment)
        if following:
            from service.contract.errors import ConflictError

            if found.next.spec is None:
                raise ConflictError(f"the results of experiment {experiment} suggest no change of its spec")
            if as_json:
                print_json(found.next.spec)
                return
            import yaml

            changes = "".join(f"# {change}\n" for change in found.next.changes)
            echo(changes + yaml.safe_dump(found.next.spec, sort_keys=False, allow_unicode=True), nl=False)
            return
        if as_json:
            print_json(found.model_dump(mode="json"))
            return
        from service.cli.rendering import insight_lines, summary

        echo(summary(client.get(experiment))[0])
        for line in insight_lines(found, experiment):
            echo(line)
