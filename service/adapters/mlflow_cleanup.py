"""MLflow cleanup: deletes from MLflow what one experiment left there.

Owns the order of the deletions, and what belongs to an experiment: the runs that Rung recorded, and what MLflow ties to
the parent run for good. Tags are no proof: anybody who may write to MLflow can set them. Each deletion can be repeated,
so that a crash between two costs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from service.adapters.mlflow_client import MlflowClient, ModelVersion, Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordedRuns:
    """What Rung recorded of an experiment's runs: the experiments of MLflow that hold them, and the trial of each run.

    The parent run has no trial. `model` is the name under which the experiment registers its winners, `view` the key of
    its view.
    """

    mlflow_experiments: frozenset[str]
    trials: Mapping[str, int | None]
    model: str
    view: str | None = None


def delete_experiment(mlflow: MlflowClient, recorded: RecordedRuns) -> None:
    """Delete an experiment's view, model versions, logged models, artifacts and runs, where they exist.

    MLflow only marks runs and logged models as deleted, until somebody runs `mlflow gc`; artifacts that its server does
    not store stay too. Only the parent run has models and artifacts; it is deleted last. Raises UnavailableError.
    """
    for mlflow_experiment in recorded.mlflow_experiments if recorded.view else ():
        mlflow.delete_view(mlflow_experiment, str(recorded.view))
    parents_last = sorted(recorded.trials, key=lambda run_id: recorded.trials[run_id] is None)
    for run in mlflow.find_runs(recorded.mlflow_experiments, parents_last):
        if recorded.trials[run.run_id] is None:
            used = _delete_model_versions(mlflow, run, recorded.model)
            _delete_logged_models(mlflow, run, used)
            mlflow.delete_artifacts(run.artifact_uri, run.run_id)
        mlflow.delete_run(run.run_id)


def _delete_model_versions(mlflow: MlflowClient, run: Run, name: str) -> set[str]:
    """Delete the versions of model `name` that a run produced, and the model if it would be left without a version.

    Returns the sources of the versions of other models that were made from this run: a person registered them.
    """
    versions = mlflow.versions_of_run(run.run_id)
    own: list[ModelVersion] = [version for version in versions if version.name == name]
    for version in own:
        if any(other not in own for other in mlflow.versions_of_model(name)):
            mlflow.delete_model_version(version)
        else:
            mlflow.delete_registered_model(name)
            break
    return {version.source for version in versions if version not in own}


def _delete_logged_models(mlflow: MlflowClient, run: Run, used: set[str]) -> None:
    for model in mlflow.logged_models(run):
        if f"models:/{model.model_id}" in used:
            log.info("keeping the logged model %s: it is registered under a name that is not Rung's", model.model_id)
            continue
        mlflow.delete_artifacts(model.artifact_uri, model.model_id)
        mlflow.delete_logged_model(model)
