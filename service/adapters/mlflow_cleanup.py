"""MLflow cleanup: deletes from MLflow everything that one experiment left there.

Owns the order of the deletions. Each can be repeated, so that a crash between two costs nothing.
"""

from __future__ import annotations

from service.adapters import mlflow_client
from service.adapters.mlflow_client import ExperimentRuns, MlflowClient, Run


def delete_experiment(mlflow: MlflowClient, runs: ExperimentRuns) -> None:
    """Delete an experiment's model versions, logged models, artifacts and runs, where they exist.

    MLflow only marks runs and logged models as deleted, until somebody runs `mlflow gc`; artifacts that its server does
    not store stay too. Only the parent run has models and artifacts; it is deleted last. Raises UnavailableError.
    """
    while True:
        found = mlflow.find_runs(runs)
        for run in found:
            if run.trial is None:
                _delete_model_versions(mlflow, run)
                _delete_logged_models(mlflow, run)
                mlflow.delete_artifacts(run.artifact_uri, run.run_id)
            mlflow.delete_run(run.run_id)
        if len(found) < mlflow_client.RUNS_PER_PAGE:
            return


def _delete_model_versions(mlflow: MlflowClient, run: Run) -> None:
    """Delete the versions that a run produced, and each registered model that would be left without a version."""
    for version in mlflow.versions_of_run(run.run_id):
        if any(other != version for other in mlflow.versions_of_model(version.name)):
            mlflow.delete_model_version(version)
        else:
            mlflow.delete_registered_model(version.name)


def _delete_logged_models(mlflow: MlflowClient, run: Run) -> None:
    for model in mlflow.logged_models(run):
        mlflow.delete_artifacts(model.artifact_uri, model.model_id)
        mlflow.delete_logged_model(model)
