"""Local: the commands that compute on this machine."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.cli.specs import read_source
from service.cli.terminal import (
    AsJson,
    CacheRoot,
    DataRoot,
    ExperimentId,
    Token,
    Url,
    app,
    connect,
    data_folder,
    home_folder,
    make_folder,
    report_errors,
)


class Topic(StrEnum):
    SCHEDULERS = "schedulers"
    OPTIMIZERS = "optimizers"
    NORMALIZATION = "normalization"
    AUGMENTATION = "augmentation"


@app.command()
def reproduce(
    experiment: ExperimentId,
    trial: Annotated[int, typer.Argument(min=0, help="number of the trial, from 0")],
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="allowed difference of the objective; default: 0 (exact), or 0.02 for a trial that ran on a GPU "
            "without execution.deterministic",
        ),
    ] = None,
    data_root: DataRoot = None,
    cache_root: CacheRoot = None,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Retrain a trial and compare its curve.

    Trains on this machine. Exit status 1 if the curve differs.
    """
    from service.cli import local_process
    from service.cli.extras import require

    with report_errors(as_json), connect(url, token) as client:
        require("reproduce", "worker")
        status = local_process.reproduce(
            client,
            experiment,
            trial,
            data_root=data_root or data_folder(),
            cache_root=cache_root or home_folder() / "cache",
            tolerance=tolerance,
            as_json=as_json,
        )
    raise typer.Exit(status)


@app.command()
def explain(
    topic: Annotated[Topic, typer.Argument(help="what to plot")],
    spec: Annotated[
        str | None,
        typer.Argument(
            metavar="SPEC", help="a YAML or JSON file, - for standard input, or preset:NAME", show_default=False
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for the plots")] = Path("plots"),
    data_root: DataRoot = None,
    cache_root: CacheRoot = None,
    as_json: AsJson = False,
) -> None:
    """Plot schedulers, optimizers, normalizations or augmentation.

    Without SPEC, plots all schedulers, the classic optimizers or all normalizations; augmentation requires a SPEC.
    Needs no service.
    """
    from search_spaces.parsing import read
    from search_spaces.validation import validate as check
    from service.cli import local_process
    from service.cli.extras import require

    with report_errors(as_json):
        require("explain", "worker")
        make_folder(out)
        checked = None if spec is None else check(read(*read_source(spec))).model_dump(mode="json")
        status = local_process.explain(
            topic,
            checked,
            out=out,
            data_root=data_root or data_folder(),
            cache_root=cache_root or home_folder() / "cache",
            as_json=as_json,
        )
    raise typer.Exit(status)
