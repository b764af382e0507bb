"""Rung's public Python interface: everything a user imports, in one flat namespace.

    from rung import Client

    with Client("http://127.0.0.1:8080") as client:
        experiment = client.submit({"name": "first"})
        print(client.wait(experiment.id).winner)

Owns the list of public names only; it must not define behavior. `tests/rung/test_exports.py` pins the names.
"""

from importlib.metadata import version

from search_spaces.experiment import ExperimentSpec, TrialSpec
from search_spaces.problems import Problem, SpecError
from search_spaces.protocol import TrialState
from service.client import Client, Rung, UnreachableError
from service.contract.comparison import Comparison
from service.contract.errors import (
    BadRequestError,
    ConflictError,
    ContentTooLargeError,
    DiskFullError,
    ForbiddenError,
    InternalError,
    MethodNotAllowedError,
    NotFoundError,
    PreconditionFailedError,
    RungError,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedMediaTypeError,
    ValidationFailedError,
)
from service.contract.schemas import (
    ClusterStatus,
    Curves,
    DiskUse,
    ExperimentSummary,
    ExperimentView,
    LogChunk,
    Preset,
    PresetName,
    Readiness,
    TrialView,
    ValidationResult,
)
from service.contract.states import State

__version__ = version("rung")

__all__ = [
    "BadRequestError",
    "Client",
    "ClusterStatus",
    "Comparison",
    "ConflictError",
    "ContentTooLargeError",
    "Curves",
    "DiskFullError",
    "DiskUse",
    "ExperimentSpec",
    "ExperimentSummary",
    "ExperimentView",
    "ForbiddenError",
    "InternalError",
    "LogChunk",
    "MethodNotAllowedError",
    "NotFoundError",
    "PreconditionFailedError",
    "Preset",
    "PresetName",
    "Problem",
    "Readiness",
    "Rung",
    "RungError",
    "SpecError",
    "State",
    "TooManyRequestsError",
    "TrialSpec",
    "TrialState",
    "TrialView",
    "UnauthorizedError",
    "UnavailableError",
    "UnreachableError",
    "UnsupportedMediaTypeError",
    "ValidationFailedError",
    "ValidationResult",
    "__version__",
]
