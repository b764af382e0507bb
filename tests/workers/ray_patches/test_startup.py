"""Startup: Ray's private functions still exist, are still called in the same way, and are still worth replacing."""

from __future__ import annotations

import importlib
import inspect
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from ray.air._internal import usage
from ray.tune import tune
from ray.tune.execution import class_cache, tune_controller

from workers.ray_patches import startup


@pytest.fixture(autouse=True)
def _ray_as_shipped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in os.environ.items():
        monkeypatch.setenv(name, value)  # what `prepare` adds is taken away below
    before, get, tag = set(os.environ), class_cache._ActorClassCache.get, usage.tag_callbacks
    yield
    class_cache._ActorClassCache.get = get
    usage.tag_callbacks = tag
    for name in set(os.environ) - before:
        del os.environ[name]


def test_ray_still_starts_actors_through_the_class_cache() -> None:
    assert list(inspect.signature(class_cache._ActorClassCache.get).parameters) == ["self", "trainable_cls"]
    assert vars(class_cache._ActorClassCache()) == {"_cache": {}}
    assert tune_controller._ActorClassCache is class_cache._ActorClassCache
    assert "self._class_cache.get(" in inspect.getsource(tune_controller.TuneController)


def test_ray_still_starts_new_processes_by_default() -> None:
    """When this fails, the replacement is needed no longer."""
    assert "runtime_env" in inspect.getsource(class_cache._ActorClassCache.get)
    assert class_cache.DEFAULT_ENV_VARS.items() <= startup.SETTINGS.items()


def test_ray_still_counts_users_of_callbacks_by_that_name() -> None:
    assert list(inspect.signature(usage.tag_callbacks).parameters) == ["callbacks"]
    assert "air_usage.tag_callbacks(" in inspect.getsource(tune)
    assert tune.air_usage is usage


def test_after_preparation_actors_have_no_environment_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    startup.prepare(3)
    made: list[Any] = []
    monkeypatch.setattr("ray.remote", lambda cls: made.append(cls) or f"remote {cls.__name__}")
    cache = class_cache._ActorClassCache()
    assert [cache.get(dict), cache.get(dict), cache.get(list)] == ["remote dict", "remote dict", "remote list"]
    assert made == [dict, list]
    assert usage.tag_callbacks([object()]) is False


def test_settings_name_variables_that_ray_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    startup.prepare(0)
    assert os.environ["TUNE_MAX_PENDING_TRIALS_PG"] == "1"
    startup.prepare(5)
    searcher: Any = object()
    assert tune_controller._get_max_pending_trials(searcher) == 5
    names = ("ray.tune.tune", "ray.tune.execution.tune_controller", "ray.tune.utils.callback", "ray.tune.utils.util")
    names += ("ray.tune.execution.experiment_state", "ray.tune.execution.class_cache", "ray.tune.experimental.output")
    source = "".join(inspect.getsource(importlib.import_module(name)) for name in names)
    assert [name for name in startup.SETTINGS if name not in source] == []


def test_the_empty_environment_of_a_job_is_cleared_and_the_rest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"runtime_env": {"env_vars": {}}, "metadata": {"job": "exp-a1"}}
    monkeypatch.setenv(startup.JOB_CONFIG, json.dumps(config))
    startup.prepare(1)
    assert json.loads(os.environ[startup.JOB_CONFIG]) == {"runtime_env": {}, "metadata": {"job": "exp-a1"}}
