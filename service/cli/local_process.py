"""Local process: what the command line computes on this machine, in a process of its own.

The service's packages import no torch; the process that does is named here by its module. Owns what is
handed to it and how it is waited for. It must not know what it computes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal

from search_spaces.experiment import ExperimentSpec
from service.cli.printable import dump_json, echo
from service.client import Client
from service.client.local_stack import home_folder, mlflow_login
from service.client.token_store import origin_of
from service.contract.errors import ConflictError, InternalError, NotFoundError, ValidationFailedError
from service.contract.schemas import ExperimentView


def reproduce(
    client: Client,
    experiment_id: str,
    trial: int,
    *,
    data_root: Path,
    cache_root: Path,
    tolerance: float | None,
    as_json: bool,
) -> int:
    """Run a trial again and compare its curve. Returns the exit status: 0 reproduced, 1 it differs, 2 it cannot run.

    Raises RungError: no such trial, no epoch finished yet, or what the client raises.
    """
    view = client.trial(experiment_id, trial)
    if view.epoch == 0:
        raise ConflictError(f"trial {trial} of experiment {experiment_id} is {view.state} and has finished no epoch")
    spec = client.trial_spec(experiment_id, trial)
    curves = client.curves(experiment_id, trial)
    points = {name: [[point.step, point.value] for point in line] for name, line in curves.metrics.items()}
    arguments = [*_roots(data_root, cache_root), *(["--json"] if as_json else [])]
    if tolerance is not None:
        arguments.append(f"--tolerance={tolerance!r}")
    try:
        data = client.data(experiment_id).model_dump(mode="json")
    except NotFoundError:  # trials of an earlier version wrote no report
        data = None
    return _run("workers.reproduce", arguments, {"spec": spec.model_dump(mode="json"), "curve": points, "data": data})


def explain(
    kind: str, spec: dict[str, Any] | None, *, out: Path, data_root: Path, cache_root: Path, as_json: bool = False
) -> int:
    """Draw plots into `out`, print their paths, and return the exit status: 0 drawn, 2 they cannot be drawn.

    As JSON, the paths are a list and an error is a problem document.
    """
    arguments = [kind, f"--out={out}", *_roots(data_root, cache_root)]
    if not as_json:
        return _run("workers.plots.cli", arguments, spec)
    done = subprocess.run(
        _command("workers.plots.cli", arguments), input=json.dumps(spec), capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        echo(dump_json({"plots": done.stdout.splitlines()}, indent=2))
    else:
        output = done.stderr.strip().splitlines() or ["the plots could not be drawn"]
        error = ValidationFailedError if done.returncode == 2 else InternalError
        echo(dump_json(error(output[-1].removeprefix("rung: ")).document()), err=True)
    return done.returncode


def read_data(spec: ExperimentSpec, *, data_root: Path, cache_root: Path) -> dict[str, Any]:
    """What is known of a spec's data set, as `report`, and the size of the `cache`. Raises ValidationFailedError."""
    document = spec.model_dump(mode="json", include={"dataset", "seed"})
    return _answer("workers.data.cli", _roots(data_root, cache_root), document)


def verify_model(view: ExperimentView, mlflow_uri: str, out: Path | None, token: str = "") -> dict[str, Any]:
    """Compare the files of an experiment's model with the recorded digest, and copy them to `out`.

    `token`: of the service that `view` is from, by which its MLflow knows people too. Raises ConflictError if they
    differ or there is no model, and ValidationFailedError if they cannot be compared.
    """
    return _answer_of_model(["verify", *([f"--out={out}"] if out else [])], view, mlflow_uri, token)


def export_model(
    view: ExperimentView, mlflow_uri: str, form: str, out: Path, *, unverified: bool, token: str = ""
) -> dict[str, Any]:
    """Write an experiment's model to the file `out`. Raises as `verify_model`."""
    arguments = ["export", f"--format={form}", f"--out={out}", *(["--unverified"] if unverified else [])]
    return _answer_of_model(arguments, view, mlflow_uri, token)


def back_up(action: Literal["make", "restore"], folder: Path, home: Path, **mlflow: str | None) -> dict[str, Any]:
    """Make a backup in a folder, or restore it; the manifest of the backup. Raises ValidationFailedError where that
    cannot be done, with nothing changed, and InternalError."""
    request = {"action": action, "folder": str(folder.absolute()), "home": str(home.absolute()), **mlflow}
    return _answer("service.backup", [], request)


def _registered(view: ExperimentView, mlflow_uri: str) -> dict[str, Any]:
    winner = view.winner or {}
    if not winner.get("model_uri"):
        raise ConflictError(f"experiment {view.id} is {view.state} and has no registered model")
    uri = mlflow_uri or (view.mlflow_url or "").partition("/#/")[0]
    if not uri:
        raise ConflictError("the service names no URL of MLflow: give --mlflow-uri or set MLFLOW_TRACKING_URI")
    return {"model_uri": winner["model_uri"], "sha256": winner.get("model_sha256"), "tracking_uri": uri}


def _answer_of_model(arguments: Sequence[str], view: ExperimentView, mlflow_uri: str, token: str) -> dict[str, Any]:
    """The process signs in by itself to the MLflow of the running `rung up`, and to one of teams if it is the one that
    the service names."""
    model = _registered(view, mlflow_uri)
    variables = mlflow_login(model["tracking_uri"], home_folder())
    if view.mlflow_workspace:
        variables["MLFLOW_WORKSPACE"] = view.mlflow_workspace
        if token and view.mlflow_url and origin_of(model["tracking_uri"]) == origin_of(view.mlflow_url):
            variables["MLFLOW_TRACKING_TOKEN"] = token
    return _answer("workers.winner.cli", arguments, model, variables)


def _answer(
    module: str, arguments: Sequence[str], document: Any, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a module with JSON on its standard input; its answer is the last line that it prints.

    Raises ConflictError for status 4, ValidationFailedError for status 2, and InternalError for any other.
    """
    done = subprocess.run(
        _command(module, arguments),
        input=json.dumps(document),
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer
    output = done.stderr.strip().splitlines() or ["the process ended without a message"]
    error = {2: ValidationFailedError, 4: ConflictError}.get(done.returncode, InternalError)
    raise error(output[-1].removeprefix("rung: "))


def _roots(data_root: Path, cache_root: Path) -> list[str]:
    return [f"--data-root={data_root}", f"--cache-root={cache_root}"]


def _run(module: str, arguments: Sequence[str], document: Any) -> int:
    """Run a module with JSON on its standard input, and print each line that it writes."""
    command = _command(module, arguments)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        errors = threading.Thread(target=_forward, args=(process.stderr, True))
        errors.start()
        with suppress(BrokenPipeError):  # it ended without reading; its exit status says why
            process.stdin.write(json.dumps(document).encode())
            process.stdin.close()
        _forward(process.stdout, False)
        errors.join()
        return process.wait()


def _forward(lines: IO[bytes], err: bool) -> None:
    for line in lines:
        echo(line.decode(errors="replace"), err=err, nl=False)


def _command(module: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-P", "-m", module, *arguments]  # -P: nothing in this folder shadows it
