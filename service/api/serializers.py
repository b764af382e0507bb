"""Serializers: from rows of the tables to the bodies of `schemas`. Pure functions."""

from __future__ import annotations

from typing import Any

from search_spaces.protocol import TrialState
from search_spaces.stored import StoredSpec
from search_spaces.upgrade import upgrade, upgrade_sample
from service.adapters.mlflow_client import MlflowClient
from service.contract.schemas import AttemptView, BestTrial, ExperimentSummary, ExperimentView, TrialView, Used
from service.contract.states import DRIVEN, State
from service.scheduling.shares import Why
from service.store.models import Attempt, Experiment, Trial


def summary(
    experiment: Experiment, counts: dict[TrialState, int], used: Used, mlflow: MlflowClient, outage: str = ""
) -> ExperimentSummary:
    """`outage` says why Ray does not answer, which an experiment that waits for it or runs in it gives as a reason."""
    return ExperimentSummary(**_fields(experiment, counts, mlflow, outage), used=used)


def full(
    experiment: Experiment,
    counts: dict[TrialState, int],
    used: Used,
    attempts: list[Attempt],
    mlflow: MlflowClient,
    outage: str = "",
    priority_ceiling: int | None = None,
) -> ExperimentView:
    return ExperimentView(
        **_fields(experiment, counts, mlflow, outage),
        used=used,
        spec=upgrade(experiment.spec).document,
        warnings=experiment.warnings,
        controls=experiment.controls,
        priority_ceiling=priority_ceiling,
        winner=experiment.winner,
        packing=experiment.packing or None,
        attempts=[_attempt(attempt) for attempt in attempts],
    )


def trial(row: Trial, experiment: Experiment, mlflow: MlflowClient) -> TrialView:
    return TrialView(
        trial=row.trial,
        state=TrialState(row.state),
        stop_reason=row.stop_reason,
        epoch=row.epoch,
        best_value=row.best_value,
        best_epoch=row.best_epoch,
        metrics=row.metrics,
        parameters=upgrade_sample(row.parameters),
        mlflow_run_id=row.mlflow_run_id,
        mlflow_url=_pages(experiment, mlflow).run_url(experiment.mlflow_experiment_id, row.mlflow_run_id),
        restarts=row.restarts,
        error_kind=row.error_kind,
        slots=row.slots,
        cancel_asked_at=row.cancel_asked_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )


def _fields(experiment: Experiment, counts: dict[TrialState, int], mlflow: MlflowClient, outage: str) -> dict[str, Any]:
    spec, pages = StoredSpec(experiment.spec_overview or experiment.spec).overview, _pages(experiment, mlflow)
    best = None
    if experiment.best_trial is not None and experiment.best_value is not None:
        best = BestTrial(trial=experiment.best_trial, value=experiment.best_value)
    return {
        "id": experiment.id,
        "name": experiment.name,
        "project": experiment.project,
        "team": experiment.team_id,
        "owner": experiment.owner,
        "labels": list(spec.labels),
        "state": experiment.state,
        "phase": experiment.phase,
        "reason": _reason(experiment, outage),
        "created_at": experiment.created_at,
        "started_at": experiment.started_at,
        "ended_at": experiment.ended_at,
        "archived_at": experiment.archived_at,
        "revision": experiment.revision,
        "source_id": experiment.source_id,
        "metric": spec.objective.metric,
        "mode": spec.objective.mode,
        "num_samples": experiment.controls["num_samples"],
        "trials": counts,
        "best": best,
        "priority": experiment.priority,
        "slots": experiment.slots,
        "attempt": experiment.attempt,
        "mlflow_experiment_id": experiment.mlflow_experiment_id,
        "mlflow_run_id": experiment.mlflow_run_id,
        "mlflow_url": pages.run_url(experiment.mlflow_experiment_id, experiment.mlflow_run_id),
        "mlflow_view_url": pages.view_url(experiment.mlflow_experiment_id, experiment.mlflow_view),
        "mlflow_workspace": experiment.mlflow_workspace,
    }


def _pages(experiment: Experiment, mlflow: MlflowClient) -> MlflowClient:
    """Where the addresses of an experiment in MLflow are from."""
    return mlflow.within(experiment.mlflow_workspace)


def _reason(experiment: Experiment, outage: str) -> str:
    if outage and experiment.state == State.QUEUED:
        return f"waiting for slots: {outage}"
    if experiment.state in DRIVEN:
        without_slot = f"it has no slot: {Why[experiment.waits_for.upper()]}" if experiment.waits_for else ""
        return "; ".join(filter(None, (experiment.reason, without_slot, outage)))
    return experiment.reason


def _attempt(attempt: Attempt) -> AttemptView:
    return AttemptView.model_validate(attempt, from_attributes=True)
