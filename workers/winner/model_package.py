"""Model package: the folder that becomes the MLflow model of a winner.

Owns what is in it: weights and a description, neither of which can hold code, and copies of the parts of Rung that read
them, so that it is loaded where Rung is not installed. It must not know trials or experiments.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import search_spaces
import workers
from workers.models import predictor
from workers.models.inference import Classifier
from workers.models.predictor import ModelDescription
from workers.winner.model_digest import digest

#: The parts of Rung that are packed with a model.
PACKED = {
    search_spaces: ("models.py", "normalization.py", "domains.py", "spec.py", "datasets/image_folder/pictures.py"),
    workers: ("models/*.py", "targets.py"),
}
#: Imports of packed modules. In the copies they are renamed, so that a model runs its own code beside an installed Rung
#: and beside models of other versions.
IMPORT = re.compile(rf"^(\s*(?:from|import) )((?:{'|'.join(package.__name__ for package in PACKED)})\b)", re.MULTILINE)
REQUIREMENTS = ("mlflow", "torch", "torchvision", "pydantic", "numpy", "pillow")
DATA: Final = "model"  # a folder in `data`
CREATED = re.compile(r"^utc_time_created:.*\n", re.MULTILINE)


def save_model(classifier: Classifier, description: ModelDescription, example: Any, folder: Path) -> None:
    """Save a network for raw images of the shape (N, C, H, W) of `example`. Equal models give equal files."""
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ParamSchema, ParamSpec

    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        data, code = Path(scratch, DATA), Path(scratch, "code")
        data.mkdir()
        predictor.save(classifier, description, data)
        package = _copy_code(code)
        output = ParamSpec(predictor.OUTPUT, "string", predictor.AUTO)
        mlflow.pyfunc.save_model(
            folder,
            loader_module=f"{package}.{predictor.__name__}",
            data_path=str(data),
            code_paths=[str(code / package)],
            mlflow_model=Model(model_uuid=digest(data)[:32]),
            # No schema of the input: MLflow would refuse encoded images where it names arrays, and arrays otherwise.
            signature=ModelSignature(params=ParamSchema([output])),
            input_example=example,
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
            metadata={"class_names": list(description.class_names)},
        )
    described = folder / "MLmodel"
    described.write_text(CREATED.sub("", described.read_text()))


def _copy_code(folder: Path) -> str:
    """Copy what reads a model into a package in `folder`, and return its name. Equal code has equal names."""
    modules: dict[Path, str] = {}
    for root_package in PACKED:
        root = Path(root_package.__path__[0])
        for pattern in PACKED[root_package]:
            for source in root.glob(pattern):
                modules[Path(root.name) / source.relative_to(root)] = source.read_text()
    for module in list(modules):
        modules |= {parent / "__init__.py": "" for parent in module.parents}
    content = hashlib.sha256("".join(f"{path}\0{modules[path]}\0" for path in sorted(modules)).encode())
    name = f"rung_model_{content.hexdigest()[:12]}"
    for path, text in modules.items():
        target = folder / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(IMPORT.sub(rf"\1{name}.\2", text))
    return name
