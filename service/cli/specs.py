"""Specs: the commands about specs, and what SPEC means on the command line."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.printable import echo
from service.cli.terminal import (
    AsJson,
    SpecFile,
    Team,
    Token,
    Url,
    app,
    connect,
    print_json,
    refuse_together,
    report_errors,
)

if TYPE_CHECKING:
    from service.client import Client

JSON, YAML = "application/json", "application/yaml"


@app.command()
def validate(
    spec: SpecFile,
    offline: Annotated[
        bool, typer.Option("--offline", help="check without a service; whether it fits the cluster is not checked")
    ] = False,
    team: Team = None,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Check a spec.

    Reports every problem, and says what the search will probably take. With --json, prints the spec with all defaults.
    """
    with report_errors(as_json):
        refuse_together(offline=offline, team=team is not None)
        if offline:
            from search_spaces.parsing import read
            from search_spaces.validation import validate as check
            from search_spaces.validation import warnings

            document = read(*read_source(spec))
            checked = check(document)
            answer: dict[str, Any] = {
                "spec": checked.model_dump(mode="json"),
                "warnings": warnings(checked, document),
                "num_samples": checked.num_samples,
            }
        else:
            with connect(url, token) as client:
                answer = client.submit(resolve_spec(client, spec), validate_only=True, team=team).model_dump(
                    mode="json"
                )
    show_checked(answer, as_json)


def show_checked(answer: dict[str, Any], as_json: bool) -> None:
    """What came of a check: a valid spec's warnings and, from a service, its forecast."""
    if as_json:
        print_json(answer)
        return
    from search_spaces.phrases import counted
    from service.cli.rendering import forecast_lines
    from service.contract.forecast import Forecast

    echo(f"valid: {answer['spec']['name']}, {counted(answer['num_samples'], 'trial')}")
    for warning in answer["warnings"]:
        echo(f"warning: {warning}")
    if answer.get("forecast"):
        for line in forecast_lines(Forecast.model_validate(answer["forecast"])):
            echo(line)


@app.command()
def schema(as_json: AsJson = False) -> None:
    """Print the JSON Schema of a spec.

    For editors. Needs no service.
    """
    from search_spaces.experiment import ExperimentSpec

    print_json(ExperimentSpec.model_json_schema())


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="print this preset as YAML")] = None, as_json: AsJson = False
) -> None:
    """List the ready-made specs, or print one.

    Needs no service.
    """
    from search_spaces import presets as shipped

    with report_errors(as_json):
        if name is not None:
            text = shipped.load(name)
            if as_json:
                print_json({"name": name, "yaml": text, "spec": shipped.spec(name).model_dump(mode="json")})
            else:
                echo(text, nl=False)
            return
        found = [{"name": one, "description": shipped.spec(one).description} for one in shipped.names()]
        if as_json:
            print_json(found)
            return
        for one in found:
            echo(f"{one['name']:<24} {one['description']}")


def resolve_spec(client: Client, spec: str) -> dict[str, Any]:
    """The mapping that SPEC holds. It is not given to the SDK as text, which may be taken for a path there."""
    from search_spaces.parsing import read

    if spec.startswith("preset:"):
        return read(client.preset(_name(spec)).yaml.encode(), YAML)
    return read(*read_source(spec))


def read_source(spec: str) -> tuple[bytes, str]:
    """The bytes of SPEC and their media type."""
    from search_spaces import presets as shipped
    from search_spaces.parsing import read_file
    from search_spaces.problems import Problem, SpecError

    if spec.startswith("preset:"):
        return shipped.load(_name(spec)).encode(), YAML
    if spec == "-" and sys.stdin is None:
        raise SpecError([Problem("SPEC", "must be a readable file, because standard input is closed (got -)")])
    try:
        if spec == "-":
            body = read_file(sys.stdin.buffer)
        else:
            with Path(spec).open("rb") as file:
                body = read_file(file)
    except OSError as error:
        hint = f"; did you mean preset:{spec}?" if spec in shipped.names() else ""
        raise SpecError([Problem("SPEC", f"must be a readable file (got {spec}: {error.strerror}){hint}")]) from None
    is_json = spec.endswith(".json") or (spec == "-" and re.match(rb'\s*\{\s*["}]', body) is not None)
    return body, JSON if is_json else YAML


def _name(preset: str) -> str:
    from search_spaces.problems import Problem, SpecError

    name = preset.removeprefix("preset:")
    if not name:
        raise SpecError([Problem("SPEC", f"must be preset:NAME (got {preset})")])
    return name
