"""The worker that cleans up, and a small server of MLflow's REST interface, which the service then uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from service.adapters.cluster_cache import ClusterCache
from service.cleanup.worker import CleanupWorker
from service.context import AppContext
from service.scheduling.reconciler import Reconciler
from service.settings import Settings
from tests.support.clock import Clock
from tests.support.mlflow_server import Mlflow, serving


@pytest.fixture
def mlflow() -> Mlflow:
    return Mlflow()


@pytest.fixture
def uri(mlflow: Mlflow) -> Iterator[str]:
    with serving(mlflow) as address:
        yield address


@pytest.fixture
def settings(settings: Settings, uri: str) -> Settings:
    return Settings(**{**settings.model_dump(), "mlflow_tracking_uri": uri})


@pytest.fixture
def keeper(context: AppContext, reconciler: Reconciler, clock: Clock) -> CleanupWorker:
    reconciler.reconcile_once()
    mine = replace(context, cluster_cache=ClusterCache(lambda: clock.seconds))
    return CleanupWorker(mine, lambda: reconciler.held, lambda: clock.now, lambda: clock.seconds)
