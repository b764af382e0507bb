"""Exported models compute what the model computes, and a file that does not is not left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from search_spaces.models import CNN, ResNet, TorchvisionModel
from tests.support.packed_models import small_model
from workers.winner import export
from workers.winner.export import ExportError, export_model
from workers.winner.model_package import save_model

IMAGES = np.random.default_rng(1).integers(0, 256, (5, 3, 32, 32), np.uint8)


NETWORKS = [
    ResNet(width=4),
    pytest.param(CNN(width=4), marks=pytest.mark.slow),
    pytest.param(TorchvisionModel(name="squeezenet1_1"), marks=pytest.mark.slow),
    pytest.param(TorchvisionModel(name="vit_b_16"), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=NETWORKS)
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of a packed model, and its network."""
    folder = tmp_path_factory.mktemp("packed") / "model"
    classifier, description = small_model(request.param, 4, 3, 32)
    save_model(classifier, description, IMAGES[:2], folder)
    return folder, classifier


def logits_of(path: Path, form: str, network: Any) -> Any:
    """What another program computes with the file for IMAGES."""
    if form == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.run(["logits"], {"images": IMAGES})[0]
    if form == "torchscript":
        return torch.jit.load(str(path))(torch.from_numpy(IMAGES)).detach().numpy()
    for weight in network.parameters():
        torch.nn.init.zeros_(weight)
    network.load_state_dict(torch.load(path, weights_only=True))
    with torch.no_grad():
        return network(torch.from_numpy(IMAGES)).numpy()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("form", ["state_dict", "torchscript", "onnx"])
def test_the_exported_file_gives_the_same_logits(packed: tuple[Path, Any], form: str, tmp_path: Path) -> None:
    if form == "onnx":
        pytest.importorskip("onnxscript")
    folder, network = packed
    with torch.no_grad():
        expected = network(torch.from_numpy(IMAGES)).numpy()
    out = tmp_path / f"small.{form}"
    description = export_model(folder, form, out)
    np.testing.assert_allclose(logits_of(out, form, network), expected, rtol=1e-3, atol=1e-4)
    assert sorted(tmp_path.iterdir()) == sorted([out, description])
    described = json.loads(description.read_text())
    assert described["input"] == "uint8 images in 0..255 of shape (images, 3, 32, 32)"
    assert described["class_names"] == [f"class {label}" for label in range(4)]


def test_a_file_with_other_logits_is_removed(
    packed: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(network: Any, example: Any, check: Any, out: Path) -> Any:
        out.touch()
        return network(check).numpy() + 1

    monkeypatch.setitem(export.FORMATS, "other", other)
    with pytest.raises(ExportError, match=r"computes other logits \(largest difference: 1.0"):
        export_model(packed[0], "other", tmp_path / "small.other")
    assert not list(tmp_path.iterdir())
