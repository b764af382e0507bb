"""Packed models: what they take and return, where they load, and that their files run no code of a stranger."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from search_spaces.models import CNN, VGG, ResNet, TorchvisionModel
from search_spaces.normalization import Group
from tests.support.packed_models import WITHOUT_RUNG, small_model
from workers.models import predictor
from workers.models.predictor import Predictor
from workers.winner.model_digest import digest
from workers.winner.model_package import save_model

ROOT = Path(__file__).parents[3]
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def model() -> Predictor:
    return Predictor(*small_model(CNN(width=2, depth=1), classes=3))


@pytest.fixture(scope="module")
def logits(model: Predictor) -> Any:
    return model.predict(PIXELS[:, None])


def test_raw_images_give_logits_in_every_form(model: Predictor, logits: Any) -> None:
    assert (logits.shape, logits.dtype) == ((3, 3), np.float32)
    raw = PIXELS[:, None]
    for given in (raw.astype(np.float64), raw.tolist(), list(raw), torch.from_numpy(raw), {"images": raw.tolist()}):
        np.testing.assert_array_equal(model.predict(given), logits)
    assert model.predict(np.zeros((0, 1, 8, 8), np.uint8)).shape == (0, 3)


def test_encoded_images_give_labels_in_every_form(model: Predictor, logits: Any, tmp_path: Path) -> None:
    encoded = [png(pixels) for pixels in PIXELS]
    text = [base64.b64encode(one).decode() for one in encoded]
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, content in zip(paths, encoded, strict=True):
        path.write_bytes(content)
    expected = model.predict(encoded)
    chances = torch.from_numpy(logits).softmax(1)
    for found, probabilities in zip(expected, chances, strict=True):
        best = int(probabilities.argmax())
        assert found["label"] == f"class {best}"
        assert (
            found["probability"] == found["probabilities"][f"class {best}"] == pytest.approx(float(probabilities[best]))
        )
        assert list(found["probabilities"]) == ["class 0", "class 1", "class 2"]
    forms: list[Any] = [text, paths, np.array(text), np.array(encoded, object), pd.DataFrame({"image": text})]
    forms += [pd.Series(encoded), {"images": text}, [f"data:image/png;base64,{one}" for one in text]]
    for given in forms:
        assert model.predict(given) == expected
    (alone,) = model.predict(encoded[0])
    assert alone["probabilities"] == pytest.approx(expected[0]["probabilities"], rel=1e-5)


def test_the_output_can_be_selected(model: Predictor, logits: Any) -> None:
    encoded = [png(pixels) for pixels in PIXELS]
    np.testing.assert_array_equal(model.predict(encoded, {"output": "logits"}), logits)
    assert model.predict(PIXELS[:, None], {"output": "labels"}) == model.predict(encoded)
    with pytest.raises(ValueError, match=r"`output` must be auto, logits or labels \(got 'classes'\)"):
        model.predict(encoded, {"output": "classes"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (PIXELS, r"must have the shape \(images, 1, 8, 8\) \(got \(3, 8, 8\)\)"),
        (np.full((1, 1, 8, 8), 256.0), r"must have values in 0..255 \(got 256..256\)"),
        (np.full((1, 1, 8, 8), np.nan), "must have values in 0..255"),
        (["photo.png"], r"image 0 must be base64 text \(got 'photo.png'\); give a file as pathlib.Path"),
        ([png(PIXELS[0]), b"x"], "image 1 cannot be read: is not an image of a known format"),
        ([Path("/nowhere/a.png")], r"image 0 \(/nowhere/a.png\) cannot be read: No such file"),
        ([png(PIXELS[0]), None], r"image 1 must be bytes, base64 text or pathlib.Path \(got NoneType\)"),
        ([None], "images must be raw .* or encoded"),
        (object(), r"images must be raw .* \(got object\)"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), r"must have one column \(got 2\)"),
        ({"a": [], "b": []}, r"there must be one input \(got 2: a, b\)"),
    ],
)
def test_what_is_no_image_is_named(model: Predictor, given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.predict(given)


def test_equal_models_are_packed_in_equal_files(tmp_path: Path) -> None:
    """So that a winner that is evaluated again is the same version."""
    classifier, description = small_model(CNN(width=2, depth=1))
    for name in ("one", "two"):
        save_model(classifier, description, PIXELS[:2, None], tmp_path / name)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    command = r"find . -type f -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum"
    printed = subprocess.run(command, shell=True, cwd=tmp_path / "one", capture_output=True, text=True, check=True)
    assert printed.stdout.split()[0] == digest(tmp_path / "one")
    (tmp_path / "two" / "code" / "more.py").touch()
    assert digest(tmp_path / "one") != digest(tmp_path / "two")


class Malicious:
    def __reduce__(self) -> Any:
        return os.mkdir, ("run by the model",)


def test_weights_that_are_a_pickle_of_code_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    predictor.save(*small_model(CNN(width=2, depth=1)), tmp_path)
    torch.save({"model": Malicious()}, tmp_path / predictor.WEIGHTS)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        predictor.load(tmp_path)
    assert not Path("run by the model").exists()


def test_a_description_of_a_later_format_is_refused(tmp_path: Path) -> None:
    predictor.save(*small_model(CNN(width=2, depth=1)), tmp_path)
    path = tmp_path / predictor.DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(ValueError, match=r"must be 1 \(got 2\)"):
        predictor.load(tmp_path)


def test_loading_leaves_the_random_numbers_of_torch(tmp_path: Path) -> None:
    predictor.save(*small_model(CNN(width=2, depth=1)), tmp_path)
    state = torch.get_rng_state()
    predictor.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


#: Loads the models named in the arguments and prints how many logits each gives, without Rung as it is installed here.
ELSEWHERE = (
    WITHOUT_RUNG
    + """
rung, *folders = sys.argv[1:]
sys.path += [rung] if rung else []
assert bool(importlib.util.find_spec("search_spaces")) is bool(rung)
import mlflow.pyfunc, numpy
for folder in folders:
    print(mlflow.pyfunc.load_model(folder).predict(numpy.zeros((2, 1, 32, 32), "uint8")).shape[1])
if rung:
    import search_spaces.datasets, service.client, workers.training.loop
else:
    assert "search_spaces" not in sys.modules
"""
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Folders of packed models with 5, 6, 7 and 8 classes."""
    specs = (CNN(width=4), VGG(width=4), ResNet(width=4), TorchvisionModel(name="squeezenet1_1"))
    folders = []
    for classes, spec in enumerate(specs, start=5):
        normalization = Group(groups=2) if spec.kind == "resnet" else None
        classifier, description = small_model(spec, classes, side=32, normalization=normalization)
        folders.append(str(tmp_path_factory.mktemp("packed") / spec.kind))
        save_model(classifier, description, np.zeros((2, 1, 32, 32), np.uint8), Path(folders[-1]))
    return folders


@pytest.mark.parametrize("rung", ["", str(ROOT)], ids=["without", "beside"])
def test_a_packed_model_is_loaded_without_rung_and_beside_it(packed: list[str], tmp_path: Path, rung: str) -> None:
    command = [sys.executable, "-I", "-c", ELSEWHERE, rung, *packed]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["5", "6", "7", "8"]), done.stderr
