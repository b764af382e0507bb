"""Preload: what a trial's process needs, imported before there is a trial.

Ray imports this module in each worker process right after its start where `RAY_preload_python_modules`
names it. Job supervisors, which train nothing, stay light. Nothing here may ask for a GPU: which one a
process may see is decided when a trial comes.
"""

from __future__ import annotations

import contextlib
import os

SUPERVISOR_MARK = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"

if os.environ.get(SUPERVISOR_MARK) != "1":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when MLflow is imported
    with contextlib.suppress(ImportError):
        import mlflow.pytorch  # noqa: F401  # the finalist packs a model with it
        import ray.tune  # noqa: F401
        import torch._dynamo  # noqa: F401  # the first optimizer would import it: two seconds

        import workers.data.splits
        import workers.training.loop  # noqa: F401
