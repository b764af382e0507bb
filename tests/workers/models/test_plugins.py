"""The example of docs/plugins.md: a package that is installed, found by its entry point, and trained."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import invalidate_caches
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
import torch

from search_spaces.experiment import ExperimentSpec
from search_spaces.parsing import read
from search_spaces.validation import validate
from workers.data.splits import load
from workers.training.loop import Training
from workers.winner.evaluation import describe
from workers.winner.model_package import save_model

DOCUMENT = Path(__file__).parents[3] / "docs" / "plugins.md"


def block(after: str) -> str:
    """The fenced block that follows a text of the document."""
    match = re.search(r"```\w+\n(.*?)```", DOCUMENT.read_text().partition(after)[2], re.DOTALL)
    assert match, f"no block after {after!r}"
    return match[1]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages with the example as pip installs it: the module and its metadata."""
    (declared,) = re.findall(r'entry-points\."rung\.models"\]\n(\w+) = "([\w:]+)"', block("`mixers/pyproject.toml`"))
    (tmp_path / "mixers.py").write_text(block("`mixers/mixers.py`"))
    metadata = tmp_path / "mixers-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mixers\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[rung.models]\n{declared[0]} = {declared[1]}\n")
    monkeypatch.syspath_prepend(tmp_path)
    invalidate_caches()
    sys.modules.pop("mixers", None)
    yield tmp_path
    sys.modules.pop("mixers", None)


@pytest.fixture
def example() -> ExperimentSpec:
    return validate(read(block("A search over its width").encode(), "application/yaml"))


@pytest.mark.parametrize("normalization", ["batch", "layer", "none"])
def test_the_example_trains(installed: Path, example: ExperimentSpec, normalization: str) -> None:
    space = example.search_space.model_dump(mode="json") | {"normalization": normalization}
    spec = ExperimentSpec.model_validate({"name": "mixers", "search_space": space})
    trial = spec.bind({"model.arguments.width": 1})
    training = Training(trial, load(trial.dataset, trial.split_seed, installed, installed / "cache"))
    widths = [parameter.shape[0] for parameter in training.model.parameters() if parameter.ndim == 4]
    assert widths == [64], "the second of the choices"
    losses = [training.run_epoch()["validation_loss"] for _ in range(2)]
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        ("torch.cat([x, x], 1)", "({}, 20), torch.float32"),
        ("x[:, :4]", "({}, 4), torch.float32"),
        ("x[:1]", "(1, 10), torch.float32"),
        ("x.long()", "({}, 10), torch.int64"),
        ("(x, x)", "tuple"),
        ("None", "NoneType"),
        ("x if self.training else x[..., None]", "({}, 10, 1), torch.float32"),
    ],
)
def test_what_a_plugin_returns_must_be_logits(
    installed: Path, example: ExperimentSpec, returned: str, got: str
) -> None:
    (installed / "mixers.py").write_text(
        block("`mixers/mixers.py`").replace("return nn.Sequential(", "return Odd(")
        + f"\n\nimport torch\n\n\nclass Odd(nn.Sequential):\n    def forward(self, x):\n"
        f"        x = super().forward(x)\n        return {returned}\n"
    )
    space = example.search_space.model_dump(mode="json") | {"batch_size": 128}
    trial = ExperimentSpec.model_validate({"name": "mixers", "search_space": space}).bind({"model.arguments.width": 1})
    splits = load(trial.dataset, trial.split_seed, installed, installed / "cache")
    with pytest.raises(TypeError) as raised:
        Training(trial, splits).run_epoch()
    images = len(splits.validation_images) if "self.training" in returned else 128
    assert str(raised.value) == (
        f"model plugin mixer must return logits of shape ({images}, 10), a float tensor (got {got.format(images)})"
    )


def test_a_plugin_without_trainable_parameters_is_refused(installed: Path, example: ExperimentSpec) -> None:
    (installed / "mixers.py").write_text("from torch import nn\n\ndef build(**_): return nn.Flatten()\n")
    trial = example.bind({"model.arguments.width": 1})
    with pytest.raises(
        ValueError, match=r"model plugin mixer must return a model with trainable parameters \(got none"
    ):
        Training(trial, load(trial.dataset, trial.split_seed, installed, installed / "cache"))


def test_a_packed_model_of_a_plugin_needs_the_plugin_to_be_loaded(
    installed: Path, example: ExperimentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = example.bind({"model.arguments.width": 1})
    splits = load(trial.dataset, trial.split_seed, installed, installed / "cache")
    training = Training(trial, splits)
    images = splits.validation_images.numpy()
    folder = installed / "packed"
    save_model(training.classifier(), describe(trial, splits), images[:2], folder)
    with torch.inference_mode():
        expected = training.classifier()(splits.validation_images).numpy()
    model = mlflow.pyfunc.load_model(str(folder))
    np.testing.assert_array_equal(model.predict(images), expected)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(installed)])
    invalidate_caches()
    with pytest.raises(LookupError, match="model plugin mixer is not installed"):
        mlflow.pyfunc.load_model(str(folder))


def test_the_error_for_a_plugin_that_is_not_installed_lists_those_that_are(
    installed: Path, example: ExperimentSpec
) -> None:
    space = {"model": {"kind": "plugin", "name": "nothing"}}
    trial = ExperimentSpec.model_validate({"name": "x", "search_space": space}).bind({})
    with pytest.raises(LookupError, match=r"nothing.*mixer"):
        Training(trial, load(trial.dataset, trial.split_seed, installed, installed / "cache"))
