"""Registration: the winner's model in MLflow, logged on the experiment's run and registered under its name.

Owns that each winner is one model and one version of it, whatever requests were lost. It must not know how the winner
is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import DEFAULT_TEAM, Tag, Winner, registered_model_name
from workers.failures.attempt import ModelNameTakenError
from workers.tracking.description import NOTE_CHARACTERS
from workers.tracking.uploads import Uploads

#: What users must know about the model, in the description of each version.
USE = (
    "Input: raw images, as uint8 in 0..255 of shape (images, channels, height, width), or encoded ones, as bytes, "
    "base64 text or pathlib.Path; the model decodes, resizes and normalizes them itself. "
    "Output: for raw images logits of shape (images, classes), in the order of `class_names` in the model's metadata; "
    "for encoded ones the label and the probability of each class."
)
READY: Final = "READY"


def register(
    client: Callable[[], MlflowClient],
    spec: ExperimentSpec,
    experiment_id: str,
    run: str,
    folder: Path,
    winner: Winner,
    uploads: Uploads,
    team: str = DEFAULT_TEAM,
) -> str:
    """Log the model saved in `folder` on the experiment's `run`, and register it. Returns its `models:/` address.

    What an earlier call has done for the same files is kept, and files that `uploads` has sent are not sent again.
    Raises ModelNameTakenError, and what the client raises.
    """
    name = registered_model_name(spec.project, spec.name, team)
    tags: dict[str, str] = {Tag.EXPERIMENT_ID: experiment_id, Tag.TRIAL_ID: str(winner.trial)}
    tags |= {Tag.MODEL_SHA256: winner.model_sha256} if winner.model_sha256 else {}
    for known in client().search_model_versions(f"run_id = '{run}'"):
        if tags.items() <= known.tags.items():
            return f"models:/{known.name}/{known.version}"
    model_id = _logged(client, run, folder, tags, uploads)
    _ensure_name(client, name, spec.description)
    version = client().create_model_version(
        name,
        source=f"models:/{model_id}",
        run_id=run,
        model_id=model_id,
        description=f"{USE} {spec.dataset.input_note}".strip(),
        tags=tags | {"test_accuracy": f"{winner.test_accuracy:.4f}"},
    )
    return f"models:/{name}/{version.version}"


def _ensure_name(client: Callable[[], MlflowClient], name: str, description: str) -> None:
    """Create the registered model unless it exists. Raises ModelNameTakenError: versions of a prompt cannot be loaded
    as models, but MLflow accepts them."""
    try:
        client().create_registered_model(name, description=description[:NOTE_CHARACTERS] or None)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        try:
            client().get_registered_model(name)
        except MlflowException as missing:
            if missing.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise ModelNameTakenError(name) from error


def _logged(client: Callable[[], MlflowClient], run: str, folder: Path, tags: dict[str, str], uploads: Uploads) -> str:
    """The model of this run and these tags, with its files. The digest in the winner tells whether they are these."""
    home = str(client().get_run(run).info.experiment_id)
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    models: Iterable[LoggedModel] = client().search_logged_models([home], f"source_run_id = '{run}' and {query}")
    model: Any = next(iter(models), None) or client().create_logged_model(
        experiment_id=home,
        name="winner",
        source_run_id=run,
        params={"trial": tags[Tag.TRIAL_ID]},
        tags=tags,
        model_type="classifier",
    )
    if str(model.status) != READY:
        uploads.send(folder, model.model_id, partial(client().log_model_artifact, model.model_id))
        client().finalize_logged_model(model.model_id, READY)
    return str(model.model_id)
