"""Terminal: what the commands share: the application, common options, exit statuses, the client, and printing."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from service.cli.printable import dump_json, echo

if TYPE_CHECKING:
    from pydantic import ValidationError
    from rich.console import Console

    from service.client import Client
    from service.client.credentials import Credential
    from service.contract.schemas import ExperimentView
    from service.presentation.text import Table

FAILED, WRONG, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130
ANSWER_S = 30.0  # for one request and its whole answer, as the SDK waits by default


class Commands(TyperGroup):
    """The commands, of which typer prints pydantic's words about a wrong argument: here as `must be X (got Y)`."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            from pydantic import ValidationError

            if isinstance(error.__cause__, ValidationError):
                error.message = _rule_of_argument(error.__cause__)
            raise


def _rule_of_argument(error: ValidationError) -> str:
    from search_spaces.problems import shorten
    from search_spaces.validation import rule_of

    [problem] = error.errors()
    rule = rule_of(problem)
    if problem["type"] == "value_error":  # typer's own, of an argument with choices
        choices = str(problem["ctx"]["error"]).rpartition(" is not one of ")[2]
        rule = "must be one of " + choices.rstrip(".").replace("'", "")
    return f"{rule} (got {shorten(problem['input'])})"


app = typer.Typer(
    name="rung",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def refuse_together(**given: bool) -> None:
    """Raise ValidationFailedError if several of these options were given, by their names with underscores."""
    from service.contract.errors import ValidationFailedError

    names = [f"--{name.replace('_', '-')}" for name, is_given in given.items() if is_given]
    if len(names) > 1:
        raise ValidationFailedError(f"{' and '.join(names)} must not be given together")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        echo(f"rung {version('rung')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Hyperparameter search for image classifiers.

    Exit status: 0 success; 1 failed, paused or not allowed in this state; 2 invalid command, spec or id; 3 service
    unreachable; 130 Ctrl-C. All commands accept --json.
    """


Url = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="RUNG_URL",
        help="URL of the service; default: the running `rung up`, otherwise http://127.0.0.1:8080",
    ),
]
Token = Annotated[
    str,
    typer.Option(
        "--token",
        help="token; default: RUNG_TOKEN at the origin of RUNG_URL, otherwise that of `rung login` or `rung up`",
        show_default=False,
    ),
]
Team = Annotated[
    str | None, typer.Option("--team", help="short name of the team; needed by members of several", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
SpecFile = Annotated[
    str, typer.Argument(metavar="SPEC", help="YAML or JSON file, - for standard input, or preset:NAME")
]
ExperimentId = Annotated[str, typer.Argument(metavar="ID", help="id of the experiment")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="show its progress until it ends or is paused")]
Interval = Annotated[float, typer.Option("--interval", min=0.05, help="seconds between two refreshes")]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        envvar="RUNG_DATA_ROOT",
        help="folder of the data sets; default: the one of the running `rung up`, otherwise data in the home folder",
        show_default=False,
    ),
]
CacheRoot = Annotated[
    Path | None,
    typer.Option(
        envvar="RUNG_CACHE_ROOT", help="folder of prepared data; default: cache in the home folder", show_default=False
    ),
]


@contextlib.contextmanager
def report_errors(as_json: bool) -> Iterator[None]:
    """Print an error raised in the block and exit with its status."""
    from search_spaces.problems import SpecError
    from service.contract.errors import (
        BadRequestError,
        ContentTooLargeError,
        NotFoundError,
        RungError,
        UnsupportedMediaTypeError,
        ValidationFailedError,
        summary,
    )

    try:
        yield
    except SpecError as error:
        _fail(ValidationFailedError(summary(error.problems), error.problems), WRONG, as_json)
    except (
        BadRequestError,
        ValidationFailedError,
        NotFoundError,
        ContentTooLargeError,
        UnsupportedMediaTypeError,
    ) as error:
        _fail(error, WRONG, as_json)
    except RungError as error:
        _fail(error, UNREACHABLE if error.code == "unreachable" else FAILED, as_json)


def _fail(error: Any, status: int, as_json: bool) -> NoReturn:
    from service.client.transport import NoAnswerError, NotRungError

    if isinstance(error, NoAnswerError):
        error = NoAnswerError(f"{error}; start one with `rung up`, or check --url / RUNG_URL")
    elif isinstance(error, NotRungError):
        error = NotRungError(f"{error}; check --url / RUNG_URL")
    if as_json:
        echo(dump_json(error.document()), err=True)
    else:
        echo(str(error) if error.status == 422 and error.problems else f"rung: {error}", err=True)
    raise typer.Exit(status)


@contextlib.contextmanager
def connect(url: str, token: str) -> Iterator[Client]:
    """A client of the service, whose refusals of a token name the next step."""
    from service.client import Client
    from service.client.credentials import default_url
    from service.contract.errors import UnauthorizedError

    with Client(url or default_url(), token or None, timeout_s=ANSWER_S) as client:
        try:
            yield client
        except UnauthorizedError as error:
            raise UnauthorizedError(f"{error.detail}; {_next_step(client.url, client.credential)}") from None


def _next_step(url: str, credential: Credential) -> str:
    if credential.withheld_for:
        return f"RUNG_TOKEN is sent to {credential.withheld_for} only: to use it here, set RUNG_URL={url}"
    steps = {
        "none": f"run `rung login --url {url}`",
        "login": f"the sign-in has ended, run `rung login --url {url}`",
        "rung up": "the running `rung up` does not accept the token of its home folder; restart it",
        "RUNG_TOKEN": f"check RUNG_TOKEN, or unset it and run `rung login --url {url}`",
        "argument": f"check --token, or run `rung login --url {url}`",
    }
    return steps[credential.source]


def data_folder() -> Path:
    """The data folder of a running `rung up`, otherwise the one in the home folder."""
    return Path(_running("data_root") or home_folder() / "data")


def _running(name: str) -> str:
    """A value from the address file of a running `rung up`; empty where none runs."""
    from service.client.local_stack import home_folder as find_home
    from service.client.local_stack import running_stack

    return str(running_stack(find_home()).get(name) or "")


def home_folder(given: str | None = None) -> Path:
    """The folder of `--home` or RUNG_HOME, by default ~/.rung. Raises ValidationFailedError where there is none, and
    for an empty `--home`: a variable of a script was probably not set."""
    from search_spaces.problems import Problem
    from service.contract.errors import ValidationFailedError, summary
    from service.setting_values import default_home, expand

    if given is not None and not given.strip():
        problem = Problem("--home", "must be a folder", given)
        raise ValidationFailedError(summary([problem]), [problem])
    path = given or os.environ.get("RUNG_HOME") or ""
    try:
        return expand(path) if path else default_home()
    except ValueError as error:
        problem = Problem("RUNG_HOME", str(error))
        raise ValidationFailedError(summary([problem]), [problem]) from None


def make_folder(out: Path) -> None:
    """Create the folder of `--out`. Raises SpecError where it cannot be written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            return
    except OSError as error:
        _refuse_out(f"must be a folder that can be written to (got {out}: {error.strerror})")


def check_new_folder(out: Path) -> None:
    """Raises SpecError where `--out` cannot become a new folder, before anything is computed. Creates nothing."""
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            _refuse_out(f"must be a new or an empty folder (got {out})")
        _check_parent(out, "a folder")
        with tempfile.TemporaryFile(dir=out if out.exists() else out.parent):
            return
    except OSError as error:
        _refuse_out(f"must be a folder that can be written to (got {out}: {error.strerror})")


def check_file(out: Path, *beside: Path) -> None:
    """Raises SpecError where the file of `--out`, and those beside it, cannot be written, before anything is computed.

    A regular file that exists is replaced; anything else stays what it is.
    """
    try:
        for path in (out, *beside):
            if path.is_dir():
                _refuse_out(f"must be a file (got {out}: {path} is a folder)")
            if path.is_symlink() or (path.exists() and not path.is_file()):
                _refuse_out(f"must be a new or a regular file (got {out}: {path} is a link, a pipe or a device)")
        _check_parent(out, "a file")
        with tempfile.NamedTemporaryFile(dir=out.parent, prefix=out.name):
            return
    except OSError as error:
        _refuse_out(f"must be a file in a folder that can be written to (got {out}: {error.strerror})")


def _check_parent(out: Path, what: str) -> None:
    if not out.parent.is_dir():
        why = "is no folder" if out.parent.exists() else "does not exist"
        _refuse_out(f"must be {what} in a folder that exists (got {out}: {out.parent} {why})")


def _refuse_out(rule: str) -> NoReturn:
    from search_spaces.problems import Problem, SpecError

    raise SpecError([Problem("--out", rule)])


def show_view(view: ExperimentView, as_json: bool) -> None:
    if as_json:
        print_json(view.model_dump(mode="json"))
        return
    from service.cli.rendering import summary

    for line in summary(view):
        echo(line)


def print_table(shown: Table) -> None:
    from service.cli.rendering import draw

    open_console().print(draw(shown))


def open_console(stderr: bool = False) -> Console:
    """A console that is wide when it is not a terminal: a pipe must not lose columns."""
    from service.cli.console import SafeConsole

    console = SafeConsole(stderr=stderr, highlight=False)
    return console if console.is_terminal else SafeConsole(stderr=stderr, highlight=False, width=200)


def print_models(models: list[Any]) -> None:
    print_json([model.model_dump(mode="json") for model in models])


def print_json(data: Any) -> None:
    echo(dump_json(data, indent=2))
