"""Models: the commands for the registered model of an experiment. A process of its own does the work."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.cli.printable import echo
from service.cli.terminal import (
    AsJson,
    ExperimentId,
    Token,
    Url,
    app,
    check_file,
    check_new_folder,
    connect,
    print_json,
    report_errors,
)

model = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check the registered model of an experiment.")
app.add_typer(model, name="model")


class Format(StrEnum):
    ONNX = "onnx"
    TORCHSCRIPT = "torchscript"
    STATE_DICT = "state_dict"


#: The usual ends of file names.
SUFFIXES = {Format.ONNX: ".onnx", Format.TORCHSCRIPT: ".ts", Format.STATE_DICT: ".pt"}
MlflowUri = Annotated[
    str,
    typer.Option(
        "--mlflow-uri",
        envvar="MLFLOW_TRACKING_URI",
        help="URL of MLflow; default: the one that the service links to",
        show_default=False,
    ),
]


@model.command()
def verify(
    experiment: ExperimentId,
    out: Annotated[
        Path | None,
        typer.Option(
            help="new folder for the verified model, in a folder that exists; load the model from there",
            show_default=False,
        ),
    ] = None,
    mlflow_uri: MlflowUri = "",
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Check that nobody changed a model.

    Downloads the registered model and compares its files with the digest that Rung recorded. Exit status 0
    means that they are equal, any other that they differ or were not compared.
    """
    from service.cli import local_process
    from service.cli.extras import require

    with report_errors(as_json), connect(url, token) as client:
        require("model verify", "worker")
        if out is not None:
            check_new_folder(out)
        answer = local_process.verify_model(client.get(experiment), mlflow_uri, out, client.credential.token)
    if as_json:
        print_json(answer)
    else:
        copied = f"; the copy in {out} can be loaded" if out is not None else ""
        echo(f"{answer['model_uri']} is as Rung registered it (sha256 {answer['sha256']}){copied}")


@app.command()
def export(
    experiment: ExperimentId,
    form: Annotated[Format, typer.Option("--format", help="format of the file")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="the file, in a folder that exists; default: the experiment's name in this folder",
            show_default=False,
        ),
    ] = None,
    unverified: Annotated[
        bool,
        typer.Option(help="also export a model that cannot be verified; this runs whatever code its files contain"),
    ] = False,
    mlflow_uri: MlflowUri = "",
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Export a model as a file of its own.

    Verifies the registered model, writes it as a file, and checks that the file gives the same logits. A description
    with the classes is written beside it. Files that exist are replaced.
    """
    from service.cli import local_process
    from service.cli.extras import require

    with report_errors(as_json), connect(url, token) as client:
        require("export", "worker", *(["onnx"] if form is Format.ONNX else []))
        view = client.get(experiment)
        path = out or Path(f"{view.name}{SUFFIXES[form]}")
        check_file(path, path.with_name(f"{path.name}.json"))
        answer = local_process.export_model(
            view, mlflow_uri, form, path, unverified=unverified, token=client.credential.token
        )
    if as_json:
        print_json(answer)
    else:
        echo(f"{answer['file']}\n{answer['description']}")
