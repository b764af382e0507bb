"""A registered model on MLflow's own server: verified, changed by a stranger, exported, and served over HTTP.

Ray and the service are not needed: the model is packed and registered by what a driver does it with.
"""

from __future__ import annotations

import base64
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from search_spaces.experiment import ExperimentSpec
from search_spaces.models import CNN
from search_spaces.protocol import Winner
from service.cli import local_process
from service.contract.errors import ConflictError, ValidationFailedError
from service.contract.schemas import ExperimentView
from service.contract.states import State
from tests.support.packed_models import small_model
from tests.support.real_mlflow import free_port, running_mlflow, serving_process
from workers.tracking import registration
from workers.tracking.uploads import Uploads
from workers.winner.model_digest import digest
from workers.winner.model_package import save_model

pytestmark = pytest.mark.e2e

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), np.uint8)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_mlflow(tmp_path_factory.mktemp("mlflow")) as address:
        yield address


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed model."""
    path = tmp_path_factory.mktemp("packed") / "model"
    save_model(*small_model(CNN(width=2, depth=1), classes=3), IMAGES[:2], path)
    return path


@pytest.fixture
def view(server: str, folder: Path) -> ExperimentView:
    """An experiment whose winner is a new version of the model."""
    client = MlflowClient(server)
    home = "0"  # MLflow's default
    run = client.create_run(home).info.run_id
    winner = Winner(trial=0, value=0.5, test_accuracy=0.5, test_loss=0.1, model_sha256=digest(folder))
    spec = ExperimentSpec.model_validate({"name": "small"})
    uri = registration.register(lambda: client, spec, "abc", run, folder, winner, Uploads())
    known = winner.model_copy(update={"model_uri": uri}).model_dump(mode="json")
    shown: dict[str, Any] = {"id": "abc", "name": "small", "state": State.COMPLETED, "winner": known}
    return ExperimentView.model_construct(**shown, mlflow_url=f"{server}/#/experiments/{home}/runs/{run}")


def test_an_unchanged_model_is_verified_and_its_copy_predicts(
    view: ExperimentView, folder: Path, tmp_path: Path
) -> None:
    assert view.winner is not None
    answer = local_process.verify_model(view, "", tmp_path / "copy")
    assert answer["verified"]
    assert answer["sha256"] == view.winner["model_sha256"]
    copy, packed = (mlflow.pyfunc.load_model(str(path)) for path in (tmp_path / "copy", folder))
    np.testing.assert_array_equal(copy.predict(IMAGES), packed.predict(IMAGES))
    with pytest.raises(ValidationFailedError, match="--out must be a new or an empty folder"):
        local_process.verify_model(view, "", tmp_path / "copy")


@pytest.mark.parametrize("name", ["data/model/weights.pt", "code/more.py"])
def test_a_model_that_a_stranger_changed_is_neither_verified_nor_exported(
    server: str, view: ExperimentView, tmp_path: Path, name: str
) -> None:
    """MLflow lets anyone write a file, without a password."""
    assert view.winner is not None
    client = MlflowClient(server)
    version = client.get_model_version(*view.winner["model_uri"].split("/")[-2:])
    model = client.get_logged_model(str(version.source).removeprefix("models:/"))
    path = str(model.artifact_location).removeprefix("mlflow-artifacts:/")
    url = f"{server}/api/2.0/mlflow-artifacts/artifacts/{path}/{name}"
    assert httpx.put(url, content=b"another", trust_env=False).status_code == 200
    changed = r"have been changed: their digest is .* do not load them"
    with pytest.raises(ConflictError, match=changed):
        local_process.verify_model(view, "", tmp_path / "copy")
    with pytest.raises(ConflictError, match=changed):
        local_process.export_model(view, "", "state_dict", tmp_path / "m.pt", unverified=False)
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_recorded_digest_is_exported_on_request_only(view: ExperimentView, tmp_path: Path) -> None:
    assert view.winner is not None
    del view.winner["model_sha256"]
    with pytest.raises(ValidationFailedError, match="recorded no digest"):
        local_process.verify_model(view, "", None)
    out = tmp_path / "m.pt"
    answer = local_process.export_model(view, "", "state_dict", out, unverified=True)
    assert (answer["file"], answer["description"]) == (str(out), f"{out}.json")
    weights = torch.load(out, weights_only=True)
    assert weights["mean"].shape == (1, 1, 1, 1)
    described = json.loads(Path(answer["description"]).read_text())
    assert described["class_names"] == ["class 0", "class 1", "class 2"]
    assert described["decoding"]["height"] == 8


def test_the_served_model_answers_base64_and_raw_images(folder: Path, tmp_path: Path) -> None:
    def png(pixels: Any) -> str:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()

    address = f"http://127.0.0.1:{free_port()}"
    command = [
        *(sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "-m", str(folder)),
        *("--host", "127.0.0.1", "--port", address.rpartition(":")[2]),
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    expected = mlflow.pyfunc.load_model(str(folder)).predict(IMAGES)
    labels = [f"class {label}" for label in expected.argmax(1)]
    with (
        serving_process(command, f"{address}/health", tmp_path / "serve.log", os.environ | {"PATH": path}),
        httpx.Client(base_url=address, trust_env=False, timeout=60) as http,
    ):
        encoded = [png(image[0]) for image in IMAGES]
        table = {"columns": ["image"], "data": [[one] for one in encoded]}
        for body in ({"inputs": encoded}, {"dataframe_split": table}):
            answer = http.post("/invocations", json=body)
            assert answer.status_code == 200, answer.text
            assert [one["label"] for one in answer.json()["predictions"]] == labels
        answer = http.post("/invocations", json={"inputs": IMAGES.tolist()})
        np.testing.assert_allclose(answer.json()["predictions"], expected, rtol=1e-5, atol=1e-6)
        answer = http.post("/invocations", json={"inputs": IMAGES.tolist(), "params": {"output": "labels"}})
        assert [one["label"] for one in answer.json()["predictions"]] == labels
        answer = http.post("/invocations", json={"inputs": ["/etc/hostname"]})
        assert (answer.status_code, "must be base64 text" in answer.text) == (400, True)
