"""What `import rung` offers: its names are pinned, and importing it loads nothing of the server or the workers."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import rung

NAMES = {
    *("Client", "Rung", "__version__"),
    *("ExperimentSpec", "TrialSpec", "Problem", "SpecError"),
    *("State", "TrialState"),
    *("ExperimentSummary", "ExperimentView", "TrialView", "Curves", "LogChunk", "DiskUse", "ValidationResult"),
    *("Preset", "PresetName", "ClusterStatus", "Comparison", "Readiness"),
    *("RungError", "BadRequestError", "UnauthorizedError", "ForbiddenError", "NotFoundError", "MethodNotAllowedError"),
    *("ConflictError", "PreconditionFailedError", "ContentTooLargeError", "UnsupportedMediaTypeError"),
    *(
        "ValidationFailedError",
        "TooManyRequestsError",
        "InternalError",
        "UnavailableError",
        "DiskFullError",
        "UnreachableError",
    ),
}


def test_the_public_names_are_these() -> None:
    assert set(rung.__all__) == NAMES
    assert rung.__all__ == sorted(rung.__all__)
    assert all(hasattr(rung, name) for name in NAMES)


def test_every_public_class_is_documented() -> None:
    classes = [value for name in NAMES if isinstance(value := getattr(rung, name), type)]
    assert len(classes) > 30
    assert [one.__name__ for one in classes if not vars(one).get("__doc__")] == []


def test_the_old_names_of_the_client_stay() -> None:
    from service.client import Client, Rung

    assert rung.Client is rung.Rung is Client is Rung


def test_the_version_is_that_of_the_distribution() -> None:
    assert rung.__version__ == version("rung")


def test_importing_it_loads_nothing_of_the_server_or_the_workers() -> None:
    code = "import sys, rung; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "ray", "mlflow", "sqlalchemy", "fastapi", "matplotlib", "numpy", "workers", "uvicorn"}
    assert heavy.isdisjoint(loaded)
