"""Startup: settings and patches that save seconds before the first epoch of a search with Ray Tune.

Owns the settings and the two replacements of Ray's private functions, each with its reason (measured in
docs/decisions/0002). Ray is pinned to one minor version because of them, and a test fails when they no longer fit. It
must not know experiments.
"""

from __future__ import annotations

import json
import os
from typing import Any

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",
    "TUNE_WARN_THRESHOLD_S": "5",
    "RAY_AIR_NEW_OUTPUT": "0",
    "PL_DISABLE_FORK": "1",
}
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def prepare(slots: int) -> None:
    """Must be called before `ray.init` in a driver. `slots`: trials that may run at once at the start."""
    os.environ.update(SETTINGS, TUNE_MAX_PENDING_TRIALS_PG=str(max(1, slots)))
    if JOB_CONFIG in os.environ:
        # Ray Jobs sets an empty but present runtime_env, which no idle worker process matches.
        config = json.loads(os.environ[JOB_CONFIG])
        os.environ[JOB_CONFIG] = json.dumps(config | {"runtime_env": {}})
    _use_idle_workers()
    _skip_usage_tags()


def _use_idle_workers() -> None:
    """Tune sets an environment variable on each actor, so Ray starts a new process. `SETTINGS` sets it instead."""
    import ray
    from ray.tune.execution import class_cache

    def get(self: Any, trainable_cls: type) -> Any:
        if trainable_cls not in self._cache:
            self._cache[trainable_cls] = ray.remote(trainable_cls)
        return self._cache[trainable_cls]

    replaced: Any = class_cache._ActorClassCache
    replaced.get = get


def _skip_usage_tags() -> None:
    """To count users, Tune imports every tracking integration that is installed, which takes over a second."""
    from ray.air._internal import usage

    usage.tag_callbacks = lambda callbacks: False
