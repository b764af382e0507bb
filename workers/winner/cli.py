"""Command line of registered models: `python -m workers.winner.cli verify|export`.

`rung model verify` and `rung export` run it. Reads `{"model_uri": ..., "sha256": ..., "tracking_uri": ...}` from
standard input and prints a JSON object in the last line. Owns the download and its check against the recorded digest:
nothing of a model is run before. Exit status: 0 done, 2 it cannot be done here, 4 the files are not those that were
recorded; 1 is that of an error of Python. It must not know the service or Ray.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from workers.winner.model_digest import digest

DONE, CANNOT, DIFFERS = 0, 2, 4
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
#: What MLflow adds to a copy that it downloads: the model's name and version.
ADDED = "registered_model_meta"
SIGN_IN = "; sign in to this MLflow with the variables MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


class ModelDiffersError(Exception):
    """The files of a registered model are not those that were recorded."""


class ModelError(Exception):
    """A model that cannot be read or exported here. The message says why."""


@dataclass(frozen=True)
class Registered:
    """Where a model is, and the digest that Rung recorded; None for a model of a version that recorded none."""

    model_uri: str
    sha256: str | None
    tracking_uri: str


@contextmanager
def downloaded(model: Registered, *, unverified: bool = False) -> Iterator[Path]:
    """A copy of the model's files, for the length of the block.

    Raises ModelDiffersError, and ModelError for a model without a recorded digest, unless `unverified`.
    """
    if model.sha256 is None and not unverified:
        raise ModelError(
            f"{model.model_uri} was registered by a version that recorded no digest: it cannot be verified"
        )
    with tempfile.TemporaryDirectory(prefix="rung-model-") as scratch:
        folder = _download(model, Path(scratch))
        found = digest(folder)
        if model.sha256 not in (None, found) and not unverified:
            raise ModelDiffersError(
                f"the files of {model.model_uri} have been changed: their digest is {found}, and Rung recorded "
                f"{model.sha256}; do not load them"
            )
        yield folder


def verify(model: Registered, out: Path | None) -> dict[str, Any]:
    """Compare the model's files with the recorded digest, and copy them to `out`. Runs nothing of them."""
    with downloaded(model) as folder:
        if out is not None:
            _copy(folder, out)
    return {
        "model_uri": model.model_uri,
        "sha256": model.sha256,
        "verified": True,
        "folder": None if out is None else str(out),
    }


def export(model: Registered, form: str, out: Path, *, unverified: bool) -> dict[str, Any]:
    """Write the model as a file of another format, and its description beside it."""
    from workers.winner.export import export_model

    with downloaded(model, unverified=unverified) as folder:
        description = export_model(folder, form, out)
    return {"model_uri": model.model_uri, "format": form, "file": str(out), "description": str(description)}


def _download(model: Registered, scratch: Path) -> Path:
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a person waits
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    _without_proxy(model.tracking_uri)
    import mlflow
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(model.tracking_uri)
    try:
        folder = Path(download_artifacts(artifact_uri=model.model_uri, dst_path=str(scratch)))
    except (MlflowException, OSError) as error:
        why = f"{error}{SIGN_IN}" if _is_sign_in_missing(error) else error
        raise ModelError(f"{model.model_uri} cannot be downloaded from {model.tracking_uri}: {why}") from error
    (folder / ADDED).unlink(missing_ok=True)
    return folder


def _is_sign_in_missing(error: Any) -> bool:
    """Whether MLflow answered 401, to its client or to that of the files."""
    by_mlflow = getattr(error, "error_code", "") == "UNAUTHENTICATED"
    return by_mlflow or getattr(getattr(error, "response", None), "status_code", None) == HTTPStatus.UNAUTHORIZED


def _without_proxy(uri: str) -> None:
    """Reach an MLflow on this machine directly."""
    host = urlsplit(uri).hostname
    if host in LOCAL_HOSTS:
        for name in ("NO_PROXY", "no_proxy"):
            os.environ[name] = ",".join(filter(None, (os.environ.get(name), host)))


def _copy(folder: Path, out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"--out must be a new or an empty folder (got {out})")
    try:
        shutil.copytree(folder, out, dirs_exist_ok=True)
    except OSError as error:
        raise ModelError(f"{out} cannot be written: {error}") from error


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.winner.cli")
    commands = parser.add_subparsers(dest="command", required=True)
    verifying, exporting = commands.add_parser("verify"), commands.add_parser("export")
    verifying.add_argument("--out", type=Path)
    exporting.add_argument("--format", required=True)
    exporting.add_argument("--out", type=Path, required=True)
    exporting.add_argument("--unverified", action="store_true")
    options = parser.parse_args(arguments)
    try:
        model = Registered(**json.load(sys.stdin))
        if options.command == "verify":
            answer = verify(model, options.out)
        else:
            answer = export(model, options.format, options.out, unverified=options.unverified)
    except ModelDiffersError as error:
        print(f"rung: {error}", file=sys.stderr)
        return DIFFERS
    except Exception as error:  # torch, a plugin and exporters may raise anything
        reason = str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
        print(f"rung: {' '.join(reason.split())}", file=sys.stderr)
        return CANNOT
    print(json.dumps(answer))
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
