"""Environment: what MLflow reads from the environment when it is imported. It must not import MLflow."""

from __future__ import annotations

import os


def prepare_import() -> None:
    """Call this before the first import of MLflow in a process: it must not report its use to its authors."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
