"""Command line: `rung`, one command for each thing that a person does. All over the SDK.

Exit status: 0 done, 1 the experiment or the service failed, 2 a wrong command or spec, 3 nobody answers.
With `--json` the answer is JSON on standard output, and an error is a problem document on standard error.
Everything heavy is imported inside the commands: `rung --help` must come at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from service.client import Rung
    from service.schemas import ExperimentView

DEFAULT_URL = "http://127.0.0.1:8080"
FAILED, WRONG, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="rung",
    help="Hyperparameter search for image classifiers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Url = Annotated[
    str, typer.Option("--url", envvar="RUNG_URL", help="the service; default: the one that `rung up` started")
]
Token = Annotated[str, typer.Option("--token", envvar="RUNG_TOKEN", help="bearer token", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="answer in JSON")]
SpecFile = Annotated[
    str, typer.Argument(metavar="SPEC", help="a YAML or JSON file, - for standard input, or preset:NAME")
]
ExperimentId = Annotated[str, typer.Argument(metavar="ID", help="an experiment's id")]
Interval = Annotated[float, typer.Option("--interval", min=0.05, help="seconds between two looks")]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        envvar="RUNG_DATA_ROOT", help="folder of the data sets; default: data in the home", show_default=False
    ),
]
CacheRoot = Annotated[
    Path | None,
    typer.Option(
        envvar="RUNG_CACHE_ROOT", help="folder of prepared sets; default: cache in the home", show_default=False
    ),
]


class Topic(StrEnum):
    SCHEDULERS = "schedulers"
    OPTIMIZERS = "optimizers"
    NORMALIZATION = "normalization"
    AUGMENTATION = "augmentation"


def main() -> None:
    """The entry point of the `rung` command."""
    app()


@app.command()
def up(
    home: Annotated[Path | None, typer.Option(envvar="RUNG_HOME", help="folder of everything; default ~/.rung")] = None,
    host: Annotated[str, typer.Option(help="address that the service listens on")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="port of the service; default: a free one")] = None,
    mlflow_port: Annotated[int | None, typer.Option(help="port of MLflow; default: a free one")] = None,
    ray_dashboard_port: Annotated[int | None, typer.Option(help="port of Ray's dashboard; default: a free one")] = None,
    num_cpus: Annotated[int | None, typer.Option(min=1, help="CPUs to use; default: all")] = None,
    num_gpus: Annotated[int | None, typer.Option(min=0, help="GPUs to use; default: all")] = None,
    data_root: Annotated[Path | None, typer.Option(help="folder of the data sets; default: data in the home")] = None,
) -> None:
    """Start Ray, MLflow and the service here, until Ctrl-C."""
    from service import stack

    raise typer.Exit(
        stack.up(
            home=home or _home(),
            host=host,
            port=port,
            mlflow_port=mlflow_port,
            ray_dashboard_port=ray_dashboard_port,
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            data_root=data_root,
        )
    )


@app.command()
def validate(
    spec: SpecFile,
    offline: Annotated[
        bool, typer.Option("--offline", help="without a service, and without a look at its cluster")
    ] = False,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Check a spec, and show it with all its defaults."""
    with _errors(as_json):
        if offline:
            from search_spaces.document import read
            from search_spaces.problems import validate as check

            checked = check(read(*_document(spec)))
            answer: dict[str, Any] = {
                "spec": checked.model_dump(mode="json"),
                "warnings": checked.warnings(),
                "num_samples": checked.num_samples,
            }
        else:
            with _client(url, token) as client:
                answer = client.submit(_given(client, spec), validate_only=True).model_dump(mode="json")
    if as_json:
        _print_json(answer)
        return
    typer.echo(f"valid: {answer['spec']['name']}, {answer['num_samples']} trials")
    for warning in answer["warnings"]:
        typer.echo(f"warning: {warning}")


@app.command()
def submit(
    spec: SpecFile,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="show it until it ends")] = False,
    preset: Annotated[bool, typer.Option("--preset", help="SPEC is the name of a preset")] = False,
    interval: Interval = 0.5,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Queue an experiment."""
    with _errors(as_json), _client(url, token) as client:
        view = client.submit(_given(client, f"preset:{spec}" if preset else spec))
        if watch:
            _watch(client, view.id, interval, as_json)
        _show(view, as_json)


@app.command("list")
def list_experiments(
    state: Annotated[str | None, typer.Option(help="only those in this state")] = None,
    project: Annotated[str | None, typer.Option(help="only those of this project")] = None,
    name: Annotated[str | None, typer.Option(help="only those with this in their name")] = None,
    label: Annotated[str | None, typer.Option(help="only those with this label")] = None,
    limit: Annotated[int, typer.Option(min=1, help="at most so many, the newest first")] = 20,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """List experiments, the newest first."""
    with _errors(as_json), _client(url, token) as client:
        wanted = state.upper() if state else None
        found = list(client.list(state=wanted, project=project, name=name, label=label, limit=limit))
        if as_json:
            _print_models(found)
            return
        from service.watch import listing

        _console().print(listing(found))


@app.command()
def show(experiment: ExperimentId, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Show one experiment."""
    with _errors(as_json), _client(url, token) as client:
        _show(client.get(experiment), as_json)


@app.command()
def trials(
    experiment: ExperimentId,
    sort: Annotated[
        str | None, typer.Option(help="a metric or field, - before it for the largest first; default: the best first")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="at most so many")] = 20,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Show the trials of an experiment, the best first."""
    with _errors(as_json), _client(url, token) as client:
        from service.watch import leaderboard, ranked

        view = client.get(experiment)
        found = list(client.trials(experiment, sort=sort or ranked(view), limit=limit))
        if as_json:
            _print_models(found)
        else:
            console = _console()
            console.print(leaderboard(found, view.metric, console.width))


@app.command()
def curves(
    experiment: ExperimentId,
    trial: Annotated[int, typer.Argument(min=0, help="a trial's number, from 0")],
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Show every metric of a trial by epoch."""
    with _errors(as_json), _client(url, token) as client:
        found = client.curves(experiment, trial)
        if as_json:
            _print_json(found.model_dump(mode="json"))
            return
        from service.watch import epochs

        _console().print(epochs(found))


@app.command()
def reproduce(
    experiment: ExperimentId,
    trial: Annotated[int, typer.Argument(min=0, help="a trial's number, from 0")],
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="how far the objective may differ; default: not a bit, and 0.02 for a GPU's trial"),
    ] = None,
    data_root: DataRoot = None,
    cache_root: CacheRoot = None,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Run a trial again on this machine, and compare its curve point by point. Exit status 1: it differs."""
    from service import local_work

    with _errors(as_json), _client(url, token) as client:
        status = local_work.reproduce(
            client,
            experiment,
            trial,
            data_root=data_root or _home() / "data",
            cache_root=cache_root or _home() / "cache",
            tolerance=tolerance,
            as_json=as_json,
        )
    raise typer.Exit(status)


@app.command()
def explain(
    topic: Annotated[Topic, typer.Argument(help="what to draw")],
    spec: Annotated[
        str | None,
        typer.Argument(
            metavar="SPEC", help="a YAML or JSON file, - for standard input, or preset:NAME", show_default=False
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of the pictures")] = Path("pictures"),
    data_root: DataRoot = None,
    cache_root: CacheRoot = None,
) -> None:
    """Draw what a spec does, as PNG and as a page that needs no network. Needs no service.

    Without a SPEC: every scheduler, the classic optimizers; augmentation needs one.
    """
    from search_spaces.document import read
    from search_spaces.problems import validate as check
    from service import local_work

    with _errors(as_json=False):
        checked = None if spec is None else check(read(*_document(spec))).model_dump(mode="json")
    status = local_work.explain(
        topic,
        checked,
        out=out,
        data_root=data_root or _home() / "data",
        cache_root=cache_root or _home() / "cache",
    )
    raise typer.Exit(status)


@app.command()
def watch(
    experiment: ExperimentId, interval: Interval = 0.5, url: Url = "", token: Token = "", as_json: AsJson = False
) -> None:
    """Show an experiment until it ends."""
    with _errors(as_json), _client(url, token) as client:
        _watch(client, experiment, interval, as_json)


@app.command()
def cancel(experiment: ExperimentId, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """End an experiment."""
    with _errors(as_json), _client(url, token) as client:
        _show(client.cancel(experiment), as_json)


@app.command()
def schema(as_json: AsJson = False) -> None:
    """Print the JSON Schema of a spec, for editors. Needs no service."""
    from search_spaces.experiment import ExperimentSpec

    _print_json(ExperimentSpec.model_json_schema())


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="print this one as YAML")] = None, as_json: AsJson = False
) -> None:
    """List the ready-made specs, or print one. Needs no service."""
    from search_spaces import presets as shipped

    with _errors(as_json):
        if name is not None:
            text = shipped.load(name)
            if as_json:
                _print_json({"name": name, "yaml": text, "spec": shipped.spec(name).model_dump(mode="json")})
            else:
                typer.echo(text, nl=False)
            return
        found = [{"name": one, "description": shipped.spec(one).description} for one in shipped.names()]
        if as_json:
            _print_json(found)
            return
        for one in found:
            typer.echo(f"{one['name']:<24} {one['description']}")


@contextlib.contextmanager
def _errors(as_json: bool) -> Iterator[None]:
    """Turn what goes wrong inside into lines for a person and an exit status."""
    from search_spaces.problems import SpecError
    from service.errors import BadRequest, Invalid, NotFound, RungError, TooLarge, WrongMediaType, summary

    try:
        yield
    except SpecError as error:
        _fail(Invalid(summary(error.problems), error.problems), WRONG, as_json)
    except (BadRequest, Invalid, NotFound, TooLarge, WrongMediaType) as error:
        _fail(error, WRONG, as_json)
    except RungError as error:
        _fail(error, UNREACHABLE if error.code == "unreachable" else FAILED, as_json)


def _fail(error: Any, status: int, as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(json.dumps(error.document()), err=True)
    elif error.problems:
        for problem in error.problems:
            typer.echo(str(problem), err=True)
    else:
        typer.echo(f"rung: {error.detail}", err=True)
    raise typer.Exit(status)


def _client(url: str, token: str) -> Rung:
    from service.client import Rung

    return Rung(url or _running(), token or None)


def _running() -> str:
    """The address that a running `rung up` wrote down, else the default."""
    try:
        return str(json.loads((_home() / "stack.json").read_text())["service"])
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT_URL


def _home() -> Path:
    return Path(os.environ.get("RUNG_HOME") or Path.home() / ".rung").expanduser()


def _given(client: Rung, spec: str) -> dict[str, Any] | str | Path:
    """What SPEC means, for the SDK. The service reads it, so that its words about it are the same everywhere."""
    from search_spaces.document import read

    if spec.startswith("preset:"):
        return client.preset(spec.removeprefix("preset:")).yaml
    body, media_type = _document(spec)
    if media_type == "application/json":
        return read(body, media_type)
    return _text(body)


def _document(spec: str) -> tuple[bytes, str]:
    """The bytes of SPEC and their media type."""
    from search_spaces import presets as shipped
    from search_spaces.problems import Problem, SpecError

    if spec.startswith("preset:"):
        return shipped.load(spec.removeprefix("preset:")).encode(), "application/yaml"
    try:
        body = sys.stdin.buffer.read() if spec == "-" else Path(spec).read_bytes()
    except OSError as error:
        raise SpecError([Problem("SPEC", f"a readable file required, got {spec}: {error.strerror}")]) from None
    is_json = spec.endswith(".json") or (spec == "-" and body.lstrip()[:1] == b"{")
    return body, "application/json" if is_json else "application/yaml"


def _text(body: bytes) -> str:
    from search_spaces.problems import Problem, SpecError

    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError([Problem("SPEC", f"UTF-8 text required, got byte 0x{body[error.start]:02x}")]) from None


def _watch(client: Rung, experiment_id: str, interval: float, as_json: bool) -> NoReturn:
    from service.states import State
    from service.watch import watch as follow

    try:
        view = follow(client, experiment_id, _console(stderr=as_json), interval)
    except KeyboardInterrupt:
        typer.echo(
            f"\n{experiment_id} goes on: `rung watch {experiment_id}` to look, `rung cancel {experiment_id}` to end it",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    _show(view, as_json)
    raise typer.Exit(0 if view.state == State.COMPLETED else FAILED)


def _show(view: ExperimentView, as_json: bool) -> None:
    if as_json:
        _print_json(view.model_dump(mode="json"))
        return
    from service.watch import summary

    for line in summary(view):
        typer.echo(line)


def _console(stderr: bool = False) -> Console:
    """Wide where nobody looks at it: a pipe must not lose columns."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=200)


def _print_models(models: list[Any]) -> None:
    _print_json([model.model_dump(mode="json") for model in models])


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
