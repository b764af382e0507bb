"""Connection: the way to MLflow, for as long as this attempt may write there, and what MLflow's errors mean.

Owns the client, its time limits and credentials, and the door that is shut behind an attempt which was given
up or has said its last word. It must not know what is told, Ray or the service.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from search_spaces.protocol import LaunchConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Answers that tell of the server, not of what it was asked.
OUTAGE_CODES = frozenset({"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"})


class SupersededError(Exception):
    """Another attempt has taken over, or may at any time: write nothing."""


class Connection:
    """Once `fenced` says so, or after `close`, everything raises SupersededError."""

    def __init__(self, launch: LaunchConfig, fenced: Callable[[], bool] = lambda: False) -> None:
        self._launch = launch
        self._fenced = fenced
        self._closed = False
        self._lock = threading.Lock()
        self._client: MlflowClient | None = None

    def client(self) -> MlflowClient:
        """To be asked for anew before each request."""
        self._check()
        if self._client is None:
            # What is created must not be created again behind our back. Who must not lose a request tries again itself.
            os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
            os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            if self._launch.mlflow_username:
                os.environ["MLFLOW_TRACKING_USERNAME"] = self._launch.mlflow_username
                os.environ["MLFLOW_TRACKING_PASSWORD"] = self._launch.mlflow_password or ""
            from mlflow import MlflowClient

            self._client = MlflowClient(self._launch.mlflow_tracking_uri)
        return self._client

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """What is done inside is done before `close` returns, or not at all. For work that waits for nobody."""
        with self._lock:
            self._check()
            yield

    def close(self) -> None:
        """Let nothing through from now on. A request that hangs is not waited for: it was sent."""
        with self._lock:
            self._closed = True

    def _check(self) -> None:
        if self._fenced():
            raise SupersededError("another attempt has taken over")
        if self._closed:
            raise SupersededError("this attempt writes nothing more")


def is_permanent(error: Exception) -> bool:
    """Whether MLflow itself says that it will never take this; anything else may pass when tried again."""
    from mlflow.exceptions import MlflowException, RestException

    if not isinstance(error, MlflowException):
        return False
    missing = error.error_code == "RESOURCE_DOES_NOT_EXIST" and isinstance(error, RestException)
    return missing or error.error_code == "INVALID_PARAMETER_VALUE"


def is_outage(error: Exception) -> bool:
    """Whether MLflow was not reached, or had trouble of its own: it may take the same later."""
    from mlflow.exceptions import MlflowException, RestException

    if isinstance(error, RestException):
        return error.error_code in OUTAGE_CODES
    return isinstance(error, MlflowException | OSError)
