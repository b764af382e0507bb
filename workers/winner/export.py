"""Export: a registered model as one file that needs no MLflow.

Owns the formats, and the check that an exported file computes the same logits. It must not know where the model is
from.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers.models.predictor import DESCRIPTION
from workers.winner.model_package import DATA

INPUT, OUTPUT = "images", "logits"
CHECKED = 3  # images of the check: another number than those of the example, which must not be fixed
#: Largest difference of a logit, relative and absolute: other kernels add in another order.
RTOL, ATOL = 1e-3, 1e-4


class ExportError(Exception):
    """The exported file does not compute what the model computes."""


def export_model(folder: Path, form: str, out: Path) -> Path:
    """Write the MLflow model in `folder` to `out`, and its description as JSON beside it; return the path of that.

    The file is there only if it passed the check. Loading runs the model's code: the caller trusts it. Raises
    ExportError, and what torch and its exporters raise.
    """
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(str(folder))
    network = model.get_raw_model().eval()
    shape = np.asarray(model.input_example).shape[1:]
    random = np.random.default_rng(0)
    example, check = (torch.from_numpy(random.integers(0, 256, (n, *shape), np.uint8)) for n in (2, CHECKED))
    description = out.with_name(f"{out.name}.json")
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f"{out.name}.") as folder_of_both:
        unfinished, described = Path(folder_of_both, out.name), Path(folder_of_both, description.name)
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of exporters, about their own future
            expected = network(check).numpy()
            found = FORMATS[form](network, example, check, unfinished)
        if found.shape != expected.shape or not np.allclose(found, expected, RTOL, ATOL):
            difference = np.abs(found - expected).max() if found.shape == expected.shape else "another shape"
            raise ExportError(f"the exported model computes other logits (largest difference: {difference})")
        described.write_text(json.dumps(_describe(folder, form, shape), indent=2) + "\n")
        unfinished.replace(out)
        described.replace(description)
    return description


def _describe(folder: Path, form: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """What users of the file must know. A model of an earlier version does not name its classes."""
    path = folder / "data" / DATA / DESCRIPTION
    stored = json.loads(path.read_text()) if path.exists() else {}
    known = {name: stored[name] for name in ("class_names", "decoding") if name in stored}
    expected = f"uint8 images in 0..255 of shape (images, {', '.join(map(str, shape))})"
    return {"format": form, "input": expected, "output": "logits of shape (images, classes)", **known}


def _onnx(network: nn.Module, example: Tensor, check: Tensor, out: Path) -> NDArray[Any]:
    import onnxruntime

    with torch.no_grad():
        torch.onnx.export(
            network, (example,), out, input_names=[INPUT], output_names=[OUTPUT], external_data=False, verbose=False,
            dynamo=True, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        )  # fmt: skip
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    logits: NDArray[Any] = session.run([OUTPUT], {INPUT: check.numpy()})[0]
    return logits


def _torchscript(network: nn.Module, example: Tensor, check: Tensor, out: Path) -> NDArray[Any]:
    # Its own check compares graphs, which differ for attention although the results do not.
    torch.jit.trace(network, example, check_trace=False).save(str(out))
    logits: NDArray[Any] = torch.jit.load(str(out), map_location="cpu")(check).numpy()
    return logits


def _state_dict(network: nn.Module, example: Tensor, check: Tensor, out: Path) -> NDArray[Any]:
    torch.save(dict(network.state_dict()), out)
    network.load_state_dict(torch.load(out, map_location="cpu", weights_only=True))
    logits: NDArray[Any] = network(check).numpy()
    return logits


#: Write a network to a file, and return the logits that the file gives for the images of the check.
FORMATS: dict[str, Callable[[nn.Module, Tensor, Tensor, Path], NDArray[Any]]] = {
    "onnx": _onnx,
    "torchscript": _torchscript,
    "state_dict": _state_dict,
}
