"""Backup: the commands that copy a whole installation, and put it back. A process of its own does it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.printable import echo
from service.cli.terminal import AsJson, app, home_folder, print_json, report_errors

Home = Annotated[
    str | None,
    typer.Option("--home", metavar="PATH", envvar="RUNG_HOME", help="home folder of `rung up`; default: ~/.rung"),
]
MlflowDatabase = Annotated[
    str | None,
    typer.Option(
        envvar="MLFLOW_BACKEND_STORE_URI",
        show_envvar=True,
        help="URL of MLflow's database, unless it is that of `rung up`",
        show_default=False,
    ),
]
MlflowArtifacts = Annotated[
    str | None,
    typer.Option(
        envvar="MLFLOW_ARTIFACTS_DESTINATION",
        help="folder of MLflow's artifacts, unless it is that of `rung up`",
        show_default=False,
    ),
]
NEEDED = ("server", "worker")


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a new folder for the backup")],
    home: Home = None,
    mlflow_database: MlflowDatabase = None,
    mlflow_artifacts: MlflowArtifacts = None,
    as_json: AsJson = False,
) -> None:
    """Back up an installation: its database, MLflow and the storage.

    Stop `rung up` first. With RUNG_DATABASE_URL, RUNG_STORAGE_ROOT or the options of MLflow, backs up the installation
    of which they are: pause its experiments and stop the service first. The three belong together, so nothing may
    change meanwhile; this is checked.
    """
    with report_errors(as_json):
        _report(
            "backed up to", folder, _run("backup", "make", folder, home, mlflow_database, mlflow_artifacts), as_json
        )


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a folder that `rung backup` made")],
    home: Home = None,
    mlflow_database: MlflowDatabase = None,
    mlflow_artifacts: MlflowArtifacts = None,
    as_json: AsJson = False,
) -> None:
    """Restore an installation from a backup.

    Replaces nothing: databases and folders must be absent or empty. With RUNG_DATABASE_URL, RUNG_STORAGE_ROOT or
    the options of MLflow, restores to these, also what `rung up` had.
    """
    with report_errors(as_json):
        _report(
            "restored from",
            folder,
            _run("restore", "restore", folder, home, mlflow_database, mlflow_artifacts),
            as_json,
        )


def _run(
    command: str, action: Any, folder: Path, home: str | None, mlflow_database: str | None, mlflow_artifacts: str | None
) -> dict[str, Any]:
    from service.cli.extras import require
    from service.cli.local_process import back_up

    require(command, *NEEDED)
    return back_up(
        action, folder, home_folder(home), mlflow_database=mlflow_database, mlflow_artifacts=mlflow_artifacts
    )


def _report(done: str, folder: Path, manifest: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({"folder": str(folder.absolute()), **manifest})
        return
    from search_spaces.phrases import counted

    size = sum(manifest["size_bytes"].values()) / 2**20
    files = counted(sum(manifest["files"].values()), "file")
    echo(f"{done} {folder}: the database, MLflow, and {files} ({size:.1f} MiB) of Rung {manifest['version']}")
