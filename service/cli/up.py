"""Up: the command that starts everything on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.terminal import app, home_folder, report_errors


@app.command()
def up(
    given: Annotated[
        str | None,
        typer.Option(
            "--home",
            metavar="PATH",
            envvar="RUNG_HOME",
            help="home folder: databases, journals, models and logs; default: ~/.rung",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(help="IP address or host name that the service listens on; 0.0.0.0 needs RUNG_ALLOWED_HOSTS"),
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="port of the service; default: a free one")] = None,
    mlflow_port: Annotated[int | None, typer.Option(help="port of MLflow; default: a free one")] = None,
    ray_dashboard_port: Annotated[int | None, typer.Option(help="port of Ray's dashboard; default: a free one")] = None,
    num_cpus: Annotated[int | None, typer.Option(min=1, help="CPUs to use; default: all")] = None,
    num_gpus: Annotated[int | None, typer.Option(min=0, help="GPUs to use; default: all")] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(help="folder of the data sets; default: RUNG_DATA_ROOT, otherwise data in the home folder"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the URLs as JSON once everything runs")] = False,
) -> None:
    """Start Ray, MLflow and the service.

    All run on this machine until Ctrl-C. Other settings are forwarded from RUNG_* variables.
    """
    from service.cli.extras import require

    with report_errors(as_json):
        require("up", "server", "worker")
        home = home_folder(given)
    from service import stack

    options = stack.Options(
        home=home,
        host=host,
        port=port,
        mlflow_port=mlflow_port,
        ray_dashboard_port=ray_dashboard_port,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        data_root=data_root,
    )
    raise typer.Exit(stack.up(options, as_json))
