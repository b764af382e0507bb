"""Predictor: what `mlflow.pyfunc.load_model` returns for a registered model.

Owns how a model is read from its files, and what it predicts: logits for raw images; labels with probabilities for
encoded ones, which it decodes as the data set was decoded. Reading runs no code from the files: the weights are tensors
and the rest is JSON. A copy of this module, and of those that it imports, is part of each registered model
(`workers.winner.model_package`), so it must not import what is not copied.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import nn

from search_spaces.datasets.image_folder import pictures
from search_spaces.models import Model
from search_spaces.normalization import Normalization
from workers.models.build import build_model
from workers.models.inference import LARGEST_PIXEL, Classifier

WEIGHTS, DESCRIPTION = "weights.pt", "description.json"
FORMAT = 1  # of the description
BATCH = 256  # images that are decoded and predicted at once
#: The parameter of `predict` that selects what is returned, and its values; `auto` depends on the input.
OUTPUT = "output"
AUTO, LOGITS, LABELS = "auto", "logits", "labels"
IMAGES = (
    "images must be raw (an array of shape (images, channels, height, width) with values in 0..255) or encoded: bytes, "
    "base64 text, pathlib.Path, or a list, Series or one column of these"
)

Prediction = dict[str, Any]


@dataclass(frozen=True)
class ModelDescription:
    """What a model's files say beside its weights, as plain JSON.

    `model` and `normalization` are the specs of the network; `class_names` are in the order of the logits; `decoding`
    is the description for `pictures.decode`.
    """

    model: Mapping[str, Any]
    normalization: Mapping[str, Any]
    channels: int
    image_size: int
    class_names: tuple[str, ...]
    decoding: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> ModelDescription:
        """Raises ValueError for a document of another format."""
        if document.get("format") != FORMAT:
            raise ValueError(f"the format of a model's description must be {FORMAT} (got {document.get('format')!r})")
        fields = {name: value for name, value in document.items() if name != "format"}
        return cls(**fields | {"class_names": tuple(fields["class_names"])})


class Predictor:
    """`network` maps raw images (uint8 or float32 in 0..255) to logits."""

    def __init__(self, network: nn.Module, description: ModelDescription) -> None:
        self._network = network
        self.description = description

    def get_raw_model(self) -> nn.Module:
        """The network: `mlflow.pyfunc.load_model(...).get_raw_model()`."""
        return self._network

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Logits (images, classes) for raw images; for encoded ones a list of label, probability and probabilities.

        `params={"output": "logits" | "labels"}` selects one of the two for either. Raises ValueError for what is not an
        image, naming its place in the input.
        """
        output = (params or {}).get(OUTPUT, AUTO)
        if output not in (AUTO, LOGITS, LABELS):
            raise ValueError(f"`{OUTPUT}` must be {AUTO}, {LOGITS} or {LABELS} (got {output!r})")
        given = _unpacked(model_input)
        raw = isinstance(given, np.ndarray)
        batches = self._raw(given) if isinstance(given, np.ndarray) else self._decoded(given)
        with torch.inference_mode():
            logits = [self._network(torch.from_numpy(batch)) for batch in batches]
        joined = torch.cat(logits) if logits else torch.zeros(0, len(self.description.class_names))
        if output == LOGITS or (output == AUTO and raw):
            return joined.numpy()
        return [self._labelled(one) for one in joined.softmax(1).tolist()]

    def _labelled(self, probabilities: list[float]) -> Prediction:
        names = self.description.class_names
        best = max(range(len(names)), key=probabilities.__getitem__)
        return {
            "label": names[best],
            "probability": probabilities[best],
            "probabilities": dict(zip(names, probabilities, strict=True)),
        }

    def _raw(self, images: NDArray[Any]) -> Iterator[NDArray[Any]]:
        decoding = self.description.decoding
        shape = (decoding["channels"], decoding["height"], decoding["width"])
        if images.ndim != 4 or images.shape[1:] != shape:
            raise ValueError(
                f"raw images must have the shape (images, {', '.join(map(str, shape))}) (got {images.shape})"
            )
        if images.dtype != np.uint8:
            if images.size and not (images.min() >= 0 and images.max() <= LARGEST_PIXEL):  # also refuses NaN
                raise ValueError(
                    f"raw images must have values in 0..255 (got {images.min():g}..{images.max():g}); "
                    "the model normalizes them itself"
                )
            images = images.astype(np.float32)
        for start in range(0, len(images), BATCH):
            yield np.ascontiguousarray(images[start : start + BATCH])

    def _decoded(self, sources: Sequence[Any]) -> Iterator[NDArray[np.uint8]]:
        for start in range(0, len(sources), BATCH):
            part = sources[start : start + BATCH]
            yield np.stack([self._decode(source, start + place) for place, source in enumerate(part)])

    def _decode(self, source: Any, place: int) -> NDArray[np.uint8]:
        try:
            return pictures.decode(_encoded(source), self.description.decoding)
        except pictures.PictureError as error:
            named = f" ({source})" if isinstance(source, Path) else ""
            raise ValueError(f"image {place}{named} cannot be read: {error}") from error
        except ValueError as error:
            raise ValueError(f"image {place} {error}") from error


def _load_pyfunc(path: str) -> Predictor:
    """MLflow calls this with the folder of the model's data."""
    return load(Path(path))


def load(folder: Path) -> Predictor:
    """The model in a folder that `save` has written. Leaves torch's random numbers as they are."""
    description = ModelDescription.read(json.loads((folder / DESCRIPTION).read_text()))
    with torch.random.fork_rng(devices=[]):  # a new network draws its weights
        network = build_model(
            TypeAdapter(Model).validate_python(description.model),
            TypeAdapter(Normalization).validate_python(description.normalization),
            description.channels,
            len(description.class_names),
            description.image_size,
        )
    zeros = torch.zeros(description.channels)
    classifier = Classifier(network, zeros, zeros)
    classifier.load_state_dict(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True))
    return Predictor(classifier.eval(), description)


def save(classifier: Classifier, description: ModelDescription, folder: Path) -> None:
    """Write the model into an existing folder. Equal models give equal bytes."""
    torch.save(dict(classifier.state_dict()), folder / WEIGHTS)
    (folder / DESCRIPTION).write_text(json.dumps(description.document(), indent=2, sort_keys=True) + "\n")


def _unpacked(given: Any) -> NDArray[Any] | list[Any]:
    """Raw images as an array, encoded ones as a list. Raises ValueError for neither."""
    if isinstance(given, Mapping):  # named inputs, of which this model has one
        if len(given) != 1:
            raise ValueError(f"there must be one input (got {len(given)}: {', '.join(map(str, given))})")
        return _unpacked(next(iter(given.values())))
    if isinstance(given, bytes | bytearray | str | Path):
        return [given]
    if hasattr(given, "to_numpy"):  # a DataFrame or Series of pandas, which may hold raw images as nested lists
        column = given.to_numpy()
        if column.ndim == 2:
            if column.shape[1] != 1:
                raise ValueError(f"a table of images must have one column (got {column.shape[1]})")
            column = column[:, 0]
        given = column.tolist()
    if isinstance(given, np.ndarray):
        if given.dtype.kind in "bui" or given.dtype.kind == "f":
            return given
        given = given.reshape(-1).tolist()
    if isinstance(given, torch.Tensor):
        return given.detach().cpu().numpy()
    if not isinstance(given, list | tuple):
        raise ValueError(f"{IMAGES} (got {type(given).__name__})")
    if any(isinstance(one, bytes | bytearray | str | Path) for one in given):
        return list(given)
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise ValueError(f"raw images must all have the same shape: {error}") from error
    if array.dtype.kind not in "buif":
        raise ValueError(f"{IMAGES} (got a {type(given).__name__} of {type(given[0]).__name__})")
    return array


def _encoded(source: Any) -> bytes | Path:
    """The content of an encoded image, or its path. Text is always base64: a client of a server names no files."""
    if isinstance(source, Path):
        return source
    if isinstance(source, bytes | bytearray):
        return bytes(source)
    if not isinstance(source, str):
        raise ValueError(f"must be bytes, base64 text or pathlib.Path (got {type(source).__name__})")
    _, marked, text = source.partition(";base64,")
    try:
        return base64.b64decode("".join((text if marked else source).split()), validate=True)
    except (binascii.Error, ValueError) as error:
        shown = source if len(source) <= 40 else f"{source[:37]}..."
        raise ValueError(f"must be base64 text (got {shown!r}); give a file as pathlib.Path") from error
