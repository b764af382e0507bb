"""Registration against MLflow's own SQLite store: one model and one version, which predicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from search_spaces.datasets import Digits
from search_spaces.experiment import ExperimentSpec
from search_spaces.models import CNN
from search_spaces.protocol import Winner
from tests.support.packed_models import small_model
from tests.support.tracking import LosingClient
from workers.failures.attempt import ModelNameTakenError
from workers.tracking import registration
from workers.tracking.uploads import Uploads
from workers.winner.model_package import save_model

WINNER = Winner(trial=0, value=0.3, test_accuracy=0.25, test_loss=1.5, model_sha256="5" * 64)
Register = Callable[[Any], str]


@pytest.fixture
def home(client: MlflowClient) -> str:
    """The id of MLflow's experiment."""
    return str(client.get_experiment_by_name("driver").experiment_id)


@pytest.fixture
def register(client: MlflowClient, home: str, tmp_path: Path, experiment: Callable[..., ExperimentSpec]) -> Register:
    """`register(client)`: the model in the folder `model`, for the same run each time."""
    run = client.create_run(home).info.run_id

    def call(used: Any) -> str:
        return registration.register(lambda: used, experiment(), "abc", run, tmp_path / "model", WINNER, Uploads())

    return call


@pytest.mark.parametrize(
    ("method", "after"),
    [
        ("create_logged_model", True),
        ("log_model_artifact", False),
        ("finalize_logged_model", False),
        ("create_model_version", False),
    ],
)
def test_a_model_is_logged_once_wherever_an_attempt_was_interrupted(
    client: MlflowClient,
    register: Register,
    tmp_path: Path,
    home: str,
    method: str,
    after: bool,
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text("flavors: {}")
    with pytest.raises(MlflowException, match="reset by peer"):
        register(LosingClient(client, method, 1, after))
    assert register(client) == "models:/driver.tested/1"
    (model,) = client.search_logged_models([home])
    assert model.status == "READY"
    assert [item.path for item in client.list_logged_model_artifacts(model.model_id)] == ["MLmodel"]
    (version,) = client.search_model_versions("name = 'driver.tested'")
    assert model.model_id in str(version.source)


def test_a_name_that_belongs_to_a_prompt_is_not_used(client: MlflowClient, register: Register, tmp_path: Path) -> None:
    """MLflow would accept the version, and nobody could load it."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text("flavors: {}")
    client.register_prompt("driver.tested", "Say {{x}}")
    with pytest.raises(ModelNameTakenError, match=r"the name driver\.tested is that of a prompt in MLflow"):
        register(client)
    client.delete_prompt_version("driver.tested", "1")
    client.delete_prompt("driver.tested")
    assert register(client) == "models:/driver.tested/1"


def test_the_registered_model_predicts(client: MlflowClient, register: Register, tmp_path: Path, home: str) -> None:
    classifier, description = small_model(CNN(width=2, depth=1))
    images = np.random.default_rng(0).integers(0, 17, (3, 1, 8, 8)).astype(np.float32)
    save_model(classifier, description, images, tmp_path / "model")
    with pytest.raises(MlflowException, match="reset by peer"):
        register(LosingClient(client, "create_model_version", 1, after=True))
    uri = register(client)
    assert (uri, register(client)) == ("models:/driver.tested/1", uri)
    assert len(client.search_model_versions("name = 'driver.tested'")) == 1
    (model,) = client.search_logged_models([home])
    version = client.get_model_version("driver.tested", "1")
    assert (version.run_id, version.tags["test_accuracy"]) == (model.source_run_id, "0.2500")
    assert version.tags["rung.model_sha256"] == WINNER.model_sha256
    assert str(version.description).endswith(Digits.input_note)
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(mlflow.pyfunc.load_model(uri).predict(images), expected, rtol=1e-5)
