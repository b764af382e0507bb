"""Invariants: what must be true of an experiment at its end, no matter what was killed while it ran.

Reads three places that must agree: the responses of the service, the journal in the experiment's folder, and
the tables of MLflow's database. It must not know which fault occurred.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

from search_spaces.experiment import ExperimentSpec
from search_spaces.layout import NAMES
from search_spaces.protocol import ENDED_TRIAL_STATES, METRICS
from search_spaces.storage.base import open_storage
from service.contract.schemas import ExperimentView
from tests.faults.place import Place
from workers.search.verdicts import Verdicts

JOURNAL = "journal.jsonl"
FINAL_STATUS = {
    "COMPLETED": "FINISHED",
    "EARLY_STOPPED": "FINISHED",
    "DIVERGED": "FINISHED",
    "ERROR": "FAILED",
    "CANCELED": "KILLED",
}
#: A run's points in the order of their steps. MLflow stores an infinity as the largest 64-bit float.
POINTS = "SELECT key, step, value, is_nan FROM metrics WHERE run_uuid = %s ORDER BY step"
#: Metrics of a trial's run that are no curves.
BEST_VALUE, BEST_EPOCH = "best_validation_accuracy", "best_epoch"
LARGEST = 1.7976931348623157e308
#: Trial, epoch and the validation accuracy as text.
Epochs = frozenset[tuple[int, int, str]]
#: Trial -> (validation accuracy, training loss) of each epoch.
Curves = dict[int, list[tuple[float, float]]]


def assert_nothing_lost(
    stand: Place,
    experiment_id: str,
    num_samples: int,
    *,
    like: str | None = None,
    before: Epochs = frozenset(),
    trained_again: int | None = None,
    states: frozenset[str] | None = None,
) -> ExperimentView:
    """The experiment is COMPLETED with all trials, each point exists once, and no recorded epoch is missing.

    `like` is an undisturbed experiment of the same spec: its curves and its best trial must be equal. `before` are
    the epochs that were recorded when the fault occurred: they must still be there. `trained_again` is the number of
    epochs that may have been trained twice (None: not checked). `states` are the allowed final states of trials
    (default: all except ERROR and CANCELED).
    """
    view = stand.rung.get(experiment_id)
    assert view.state == "COMPLETED", (view.state, view.reason, [a.reason for a in view.attempts])
    _assert_trials(stand, view, num_samples, states or ENDED_TRIAL_STATES - {"ERROR", "CANCELED"})
    _assert_journal(stand, view, num_samples)
    _assert_mlflow(stand, view, num_samples)
    assert before <= finished(stand, experiment_id)
    if trained_again is not None:
        _assert_trained_once(stand, view, trained_again)
    if like is not None:
        same = stand.rung.get(like)
        assert curves(stand, view.id) == curves(stand, same.id)
        assert view.best == same.best
    return view


def entries(stand: Place, experiment_id: str) -> list[dict[str, Any]]:
    """The valid entries of the journal: those of a superseded driver do not count."""
    return list(open_storage(stand.address(experiment_id)).journal.entries())


def finished(stand: Place, experiment_id: str) -> Epochs:
    """The epochs that the journal holds now; the stopping rule is rebuilt from them."""
    return frozenset(
        (entry["trial"], entry["epoch"], repr(entry["metrics"]["validation_accuracy"]))
        for entry in entries(stand, experiment_id)
        if entry["event"] == "epoch"
    )


def curves(stand: Place, experiment_id: str) -> Curves:
    found: Curves = {}
    for entry in entries(stand, experiment_id):
        if entry["event"] == "epoch":
            metrics = entry["metrics"]
            found.setdefault(entry["trial"], []).append((metrics["validation_accuracy"], metrics["train_loss"]))
    return found


def trained(stand: Place, experiment_id: str, trial: int) -> list[int]:
    """The epochs that were trained for a trial, in order, from its log; after a crash, some appear twice.

    The log also tells how far an epoch of more than half a minute is.
    """
    with open_storage(stand.address(experiment_id)).artifacts.open_reader(NAMES.trial(trial).log) as log:
        return [int(number) for number in re.findall(r"\bepoch (\d+): (?!\d+ of )", log.read().decode())]


def _assert_trials(stand: Place, view: ExperimentView, num_samples: int, states: frozenset[str]) -> None:
    trials = list(stand.rung.trials(view.id))
    assert sorted(trial.trial for trial in trials) == list(range(num_samples))
    assert {trial.state for trial in trials} <= states, [(t.trial, t.state, t.stop_reason) for t in trials]
    assert all(trial.stop_reason for trial in trials)


def _assert_journal(stand: Place, view: ExperimentView, num_samples: int) -> None:
    recorded = entries(stand, view.id)
    assert sorted(e["trial"] for e in recorded if e["event"] == "suggested") == list(range(num_samples))
    epochs: dict[int, list[int]] = {}
    for entry in recorded:
        if entry["event"] == "epoch":
            epochs.setdefault(entry["trial"], []).append(entry["epoch"])
    for trial in stand.rung.trials(view.id):
        assert epochs.get(trial.trial, []) == list(range(1, trial.epoch + 1)), trial.trial
    ends = Counter(entry["trial"] for entry in recorded if "state" in entry)
    assert ends == dict.fromkeys(range(num_samples), 1)
    decisions = {
        entry["trial"]: (entry["state"], entry["reason"])
        for entry in recorded
        if entry["event"] == "epoch" and "state" in entry
    }
    assert _replay(stand, view.id) == decisions, "a stopping rule that sees all epochs decides differently"


def _assert_mlflow(stand: Place, view: ExperimentView, num_samples: int) -> None:
    runs = stand.query(
        "mlflow",
        "SELECT r.run_uuid, r.status, t.value FROM runs r JOIN tags e ON e.run_uuid = r.run_uuid "
        "LEFT JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'rung.trial_id' "
        "WHERE e.key = 'rung.experiment_id' AND e.value = %s",
        view.id,
    )
    parents = [(run, status) for run, status, trial in runs if trial is None]
    assert parents == [(view.mlflow_run_id, "FINISHED")]
    children = {int(trial): (run, status) for run, status, trial in runs if trial is not None}
    assert len(runs) == num_samples + 1, "a run was created twice"
    recorded = _recorded_points(stand, view.id)
    for trial in stand.rung.trials(view.id):
        run, status = children[trial.trial]
        assert (trial.mlflow_run_id, status) == (run, FINAL_STATUS[trial.state]), trial.trial
        points: dict[str, list[tuple[int, float | None]]] = {}
        for key, step, value, is_nan in stand.query("mlflow", POINTS, run):
            points.setdefault(key, []).append((step, None if is_nan else value))
        assert set(METRICS) <= set(points) or not trial.epoch, trial.trial
        best = [points.pop(name, [(0, None)])[-1] for name in (BEST_VALUE, BEST_EPOCH)]
        assert [value for _, value in best] == [trial.best_value, trial.best_epoch], trial.trial
        assert points == recorded.get(trial.trial, {}), f"trial {trial.trial}: MLflow differs from the journal"
    summary = [(key, value) for key, _, value, _ in stand.query("mlflow", POINTS, view.mlflow_run_id)]
    assert view.winner is not None
    assert view.best is not None
    assert [value for key, value in summary if key == "test_accuracy"] == [view.winner["test_accuracy"]]
    newest = dict(summary)  # those of the search come before, at smaller steps
    assert (newest["best_value"], newest["best_trial"]) == (view.best.value, view.best.trial)
    versions = stand.query("mlflow", "SELECT name, version FROM model_versions WHERE run_id = %s", view.mlflow_run_id)
    assert [f"models:/{name}/{version}" for name, version in versions] == [view.winner["model_uri"]]


def _recorded_points(stand: Place, experiment_id: str) -> dict[int, dict[str, list[tuple[int, float | None]]]]:
    """Trial -> metric -> step and value of each point in the journal."""
    found: dict[int, dict[str, list[tuple[int, float | None]]]] = {}
    for entry in entries(stand, experiment_id):
        for name, value in entry["metrics"].items() if entry["event"] == "epoch" else ():
            known = None if math.isnan(value) else max(-LARGEST, min(LARGEST, value))
            found.setdefault(entry["trial"], {}).setdefault(name, []).append((entry["epoch"], known))
    return found


def _assert_trained_once(stand: Place, view: ExperimentView, again: int) -> None:
    """Each epoch was trained, and at most `again` epochs of all trials together were trained a second time."""
    repeated = 0
    for trial in stand.rung.trials(view.id):
        done = trained(stand, view.id, trial.trial)
        assert set(done) == set(range(1, trial.epoch + 1)), (trial.trial, done)
        repeated += len(done) - trial.epoch
    assert repeated <= again, f"{repeated} epochs were trained again"


def _replay(stand: Place, experiment_id: str) -> dict[int, tuple[str, str]]:
    """How a new stopping rule ends each trial (state, reason), given the epochs of the journal in order."""
    with open_storage(stand.address(experiment_id)).artifacts.open_reader(NAMES.spec) as stored:
        spec = ExperimentSpec.model_validate_json(stored.read())
    verdicts, decided = Verdicts(spec.early_stopping, spec.objective, spec.max_epochs), {}
    for entry in entries(stand, experiment_id):
        if entry["event"] != "epoch":
            continue
        metrics = entry["metrics"] | ({"diverged": True} if entry.get("state") == "DIVERGED" else {})
        verdict = verdicts.after_epoch(entry["trial"], entry["epoch"], metrics)
        if verdict.state:
            decided[entry["trial"]] = (str(verdict.state), verdict.reason)
    return decided
