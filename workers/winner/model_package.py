"""Model package: the folder that becomes the MLflow model of a winner.

Owns what is in it: the network as a pickle, its signature, and copies of the parts of Rung that the pickle needs, so
that it is loaded where Rung is not installed. It must not know trials or experiments.
"""

from __future__ import annotations

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import search_spaces
import workers

#: The parts of Rung that are packed with a model.
PACKED = {
    search_spaces: ("models.py", "normalization.py", "domains.py", "spec.py"),
    workers: ("models/*.py",),
}
#: The start of each packed package: MLflow puts it before an installed Rung, whose other modules stay importable.
EXTEND_PATH = '__path__ = __import__("pkgutil").extend_path(__path__, __name__)\n'
REQUIREMENTS = ("mlflow", "torch", "torchvision", "pydantic", "numpy")


def save_model(classifier: Any, example: Any, folder: Path) -> None:
    """Save a network for images of the type and the shape (N, C, H, W) of `example`; raw ones are uint8 in 0..255."""
    import mlflow.pytorch
    import torch
    from mlflow.models import infer_signature

    with torch.inference_mode():
        logits = classifier(torch.from_numpy(example)).numpy()
    signature = infer_signature(example, logits)
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as code:
        mlflow.pytorch.save_model(
            classifier,
            folder,
            signature=signature,
            input_example=example,
            code_paths=_code(Path(code)),
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
            serialization_format="pickle",
        )


def _code(folder: Path) -> list[str]:
    """Copies of what a pickled network needs. Few, since each file is an upload."""
    for package, patterns in PACKED.items():
        root = Path(package.__path__[0])
        for source in (found for pattern in patterns for found in root.glob(pattern)):
            target = folder / root.name / source.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
        (folder / root.name / "__init__.py").write_text(EXTEND_PATH)
    return [str(path) for path in folder.iterdir()]
