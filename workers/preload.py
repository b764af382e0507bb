"""Preload: imports what the process of a trial needs before the trial starts.

If `RAY_preload_python_modules` names this module, Ray imports it in each worker process right after the process starts.
Job supervisors do not train, so they skip the imports. Nothing here may use a GPU: Ray decides which GPU a process sees
only when it assigns a trial to it.
"""

from __future__ import annotations

import contextlib
import os

from workers.tracking.environment import prepare_import

SUPERVISOR_MARK = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"

if os.environ.get(SUPERVISOR_MARK) != "1":
    prepare_import()
    with contextlib.suppress(ImportError):
        import mlflow.pyfunc  # noqa: F401  # the process that evaluates the winner exports the model with it
        import ray.tune  # noqa: F401
        import torch._dynamo  # noqa: F401  # otherwise the first optimizer imports it, which takes two seconds

        import workers.data.splits
        import workers.training.loop  # noqa: F401
