"""The forecast of `validate_only` and `rung submit --dry-run`: from trials that the caller may see."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from search_spaces.experiment import ExperimentSpec
from service.cli import app
from service.context import AppContext
from service.domain import experiments, similar_trials
from service.domain.experiments import Belonging
from service.store.accounting import Usage
from service.store.models import Experiment, Trial
from tests.support.accounts import Accounts, signed_in

EXPERIMENTS = "/api/v1/experiments"
SPACE = {
    "model": {"kind": "cnn", "width": {"choice": [8, 16]}},
    "batch_size": {"choice": [32, 64]},
    "label_smoothing": {"uniform": [0, 0.1]},
}
SPEC = {
    "name": "x",
    "search_space": SPACE,
    "resources": {"gpus_per_trial": 0.5},
    "searcher": {"kind": "random", "num_samples": 10},
    "max_epochs": 20,
    "early_stopping": {"kind": "none"},
    "finalists": {"trials": 0},
}
NOTHING = "no earlier trial with the same data, resources and kind of network was measured, so hours are not known"
BASIS = (
    "2 trials of 1 experiment with the same data and resources, of networks and batch sizes that it searches: 18 s an "
    "epoch"
)


def measure(context: AppContext, epoch_s: float, team: str = "default", slot_s: float = 0.0, **changes: Any) -> None:
    """An experiment with two trials of ten epochs, of which each took so long."""
    spec = ExperimentSpec.model_validate(SPEC | changes)
    now = datetime.now(UTC)
    with context.database.write() as session:
        one = experiments.submit(session, spec, [], belonging=Belonging(team))
        one.started_at = now
        for number in range(2):
            trial = spec.bind({"model.width": number, "batch_size": number, "label_smoothing": 0.05}, number)
            values = {"metrics": {"epoch_seconds": epoch_s}, "parameters": spec.parameters(trial), "updated_at": now}
            session.add(Trial(experiment_id=one.id, trial=number, attempt=1, state="COMPLETED", epoch=10, **values))
        if slot_s:
            seconds = {"slot_seconds": slot_s, "gpu_seconds": 0.0, "cpu_seconds": 0.0}
            session.add(Usage(hour=now, experiment_id=one.id, team_id=team, pool="default", **seconds))


def forecast(client: httpx.Client, **changes: Any) -> Any:
    answer = client.post(EXPERIMENTS, json=SPEC | changes, params={"validate_only": True})
    assert answer.status_code == 200, answer.text
    return answer.json()["forecast"]


def test_it_says_plainly_that_nothing_similar_was_measured(client: httpx.Client) -> None:
    assert forecast(client) == {
        "trials": 10,
        "trial_epochs": {"low": 200, "expected": 200, "high": 200},
        "slot_hours": None,
        "gpu_hours": None,
        "basis": NOTHING,
    }


def test_hours_are_those_of_similar_trials(client: httpx.Client, context: AppContext) -> None:
    measure(context, 18.0, slot_s=2 * 10 * 18.0 + 2 * 36.0)
    found = forecast(client)
    assert found["basis"] == f"{BASIS}, and each trial 36 s besides"
    assert found["slot_hours"]["expected"] == pytest.approx((200 * 18 + 10 * 36) / 3600)
    assert found["gpu_hours"]["expected"] == pytest.approx(found["slot_hours"]["expected"] / 2)


def test_of_a_large_experiment_some_trials_are_read_and_the_others_took_as_long(
    client: httpx.Client, context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(context, 18.0, slot_s=2 * 10 * 18.0 + 3 * 36.0)
    with context.database.write() as session:  # it failed before its first epoch, and is no similar trial
        [one] = session.scalars(select(Trial.experiment_id).distinct())
        failed = {"metrics": {}, "parameters": {}, "updated_at": datetime.now(UTC)}
        session.add(Trial(experiment_id=one, trial=2, attempt=1, state="ERROR", epoch=0, **failed))
    assert forecast(client)["basis"] == f"{BASIS}, and each trial 36 s besides"
    monkeypatch.setattr(similar_trials, "MAX_TRIALS", 1)
    assert forecast(client)["basis"] == BASIS.replace("2 trials", "1 trial") + ", and each trial 36 s besides"


def test_trials_of_other_data_resources_and_networks_are_not_similar(client: httpx.Client, context: AppContext) -> None:
    measure(context, 1.0, dataset={"name": "digits", "validation_fraction": 0.4})
    measure(context, 1.0, resources={"gpus_per_trial": 1})
    measure(context, 1.0, search_space=SPACE | {"model": {"kind": "vgg", "width": {"choice": [8, 16]}}})
    assert forecast(client)["basis"] == NOTHING


def test_newer_experiments_that_are_not_similar_hide_no_similar_one(
    client: httpx.Client, context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similar_trials, "MAX_EXPERIMENTS", 2)
    measure(context, 18.0)
    for _ in range(2):
        measure(context, 1.0, dataset={"name": "digits", "validation_fraction": 0.4})
        measure(context, 1.0, search_space=SPACE | {"model": "vgg"})
    assert forecast(client)["basis"] == BASIS


def test_what_an_earlier_version_stored_is_similar(client: httpx.Client, context: AppContext) -> None:
    measure(context, 18.0)
    with context.database.write() as session:
        [one] = session.scalars(select(Experiment))
        one.spec_overview = {name: value for name, value in (one.spec_overview or {}).items() if name != "models"}
    assert forecast(client)["basis"] == BASIS


def test_other_sizes_count_only_where_there_is_nothing_closer(client: httpx.Client, context: AppContext) -> None:
    measure(context, 100.0, search_space=SPACE | {"model": {"kind": "cnn", "width": {"choice": [64, 128]}}})
    found = forecast(client)
    assert "kinds of networks, but other sizes or batch sizes: 100 s an epoch" in found["basis"]
    measure(context, 1.0)
    assert forecast(client)["slot_hours"]["expected"] == pytest.approx(200 / 3600)


def test_a_spec_without_gpus_has_no_gpu_hours(client: httpx.Client, context: AppContext) -> None:
    measure(context, 1.0, resources={"gpus_per_trial": 0})
    found = forecast(client, resources={"gpus_per_trial": 0})
    assert found["gpu_hours"] == {"low": 0, "expected": 0, "high": 0}


def test_nothing_is_learned_of_the_trials_of_another_team(
    client: httpx.Client, context: AppContext, accounts: Accounts
) -> None:
    for team in ("vision", "speech"):
        accounts.team(team)
    measure(context, 18.0, team="speech")
    with signed_in(client, accounts.person("bob", vision="member")) as bob:
        assert forecast(bob)["basis"] == NOTHING
    with signed_in(client, accounts.person("eve", speech="member")) as eve:
        assert forecast(eve)["slot_hours"]["expected"] == pytest.approx(1)


def test_a_dry_run_prints_it_and_submits_nothing(client: httpx.Client, context: AppContext, tmp_path: Path) -> None:
    measure(context, 18.0)
    many = {"searcher": {"kind": "random", "num_samples": 100}, "project": "other"}
    (tmp_path / "spec.json").write_text(ExperimentSpec.model_validate(SPEC | many).model_dump_json())
    runner = CliRunner(env={"RUNG_URL": str(client.base_url), "RUNG_HOME": str(tmp_path)})
    before = client.get(EXPERIMENTS).json()
    for command in (["submit", "--dry-run"], ["validate"]):
        lines = runner.invoke(app, [*command, str(tmp_path / "spec.json")]).stdout.splitlines()
        assert lines == [
            "valid: x, 100 trials",
            "  epochs    2000 in 100 trials",
            "  hours     10 of slots",
            "  hours     5 of GPUs",
            f"  basis     {BASIS}",
        ]
    assert client.get(EXPERIMENTS).json() == before
