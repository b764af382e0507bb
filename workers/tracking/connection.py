"""Connection: the way to MLflow, for as long as this attempt may write there, and what MLflow's errors mean.

Owns the client, its time limits and credentials, that a request which failed by chance is repeated, and that nothing
is written once the attempt is superseded or has sent its final heartbeat. It must not know what is sent, Ray or the
service.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from search_spaces.protocol import LaunchConfig
from search_spaces.request_limits import RequestLimits
from workers.tracking import repetition
from workers.tracking.environment import prepare_import
from workers.tracking.repetition import RepeatingClient

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Error codes that tell of the server's state, not of the request.
OUTAGE_CODES = frozenset({"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"})
#: HTTP statuses below 500 that do so, of an answer that is not MLflow's own.
OUTAGE_STATUSES = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


class SupersededError(Exception):
    """Another attempt has started, or may start at any time: write nothing."""


class LostRunsError(Exception):
    """MLflow does not have what Rung recorded of it, as after its database was lost or replaced.

    Nothing is sent until it is back: MLflow would refuse it for good.
    """


class Connection:
    """Once `superseded` returns True, or after `close`, every method raises SupersededError."""

    def __init__(self, launch: LaunchConfig, superseded: Callable[[], bool] = lambda: False) -> None:
        self._launch = launch
        self._superseded = superseded
        self._closed = threading.Event()
        self._limits = RequestLimits(repetition.REQUEST_S)
        self._lock = threading.Lock()
        self._client: MlflowClient | None = None

    def client(self) -> MlflowClient:
        """Call this before each request: it checks that the attempt may write.

        A request that fails because of the server is repeated for a few seconds, except a creation.
        """
        self._check()
        if self._client is None:
            # MLflow must not repeat a creation without our knowledge.
            os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
            os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
            prepare_import()
            if self._launch.mlflow_username:
                os.environ["MLFLOW_TRACKING_USERNAME"] = self._launch.mlflow_username
                os.environ["MLFLOW_TRACKING_PASSWORD"] = self._launch.mlflow_password or ""
            if self._launch.mlflow_workspace:
                os.environ["MLFLOW_WORKSPACE"] = self._launch.mlflow_workspace
            from mlflow import MlflowClient  # takes seconds: on the thread that needs it first

            self._client = MlflowClient(self._launch.mlflow_tracking_uri)
        repeating: Any = RepeatingClient(self._client, self._check, is_outage, self._closed, self._limits)
        client: MlflowClient = repeating
        return client

    def repeat(self, action: Callable[[], T]) -> T:
        """The result of a creation, again for a few seconds while it fails because of the server.

        From its second call on, `action` must look for what an earlier one has left.
        """
        return repetition.repeat(action, is_outage, self._closed.wait)

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """The block is finished before `close` returns, or never entered. For work that waits for nobody."""
        with self._lock:
            self._check()
            yield

    def close(self) -> None:
        """Refuse all requests from now on. Does not wait for a request that has been sent."""
        with self._lock:
            self._closed.set()

    def _check(self) -> None:
        if self._superseded():
            raise SupersededError("another attempt has started")
        if self._closed.is_set():
            raise SupersededError("this attempt writes nothing more")


def is_permanent(error: Exception) -> bool:
    """Whether MLflow itself says that it will never accept the request; anything else may pass if it is retried."""
    from mlflow.exceptions import MlflowException, RestException

    if not isinstance(error, MlflowException) or _lacks_workspace(error):
        return False
    missing = error.error_code == "RESOURCE_DOES_NOT_EXIST" and isinstance(error, RestException)
    return missing or error.error_code == "INVALID_PARAMETER_VALUE"


def is_outage(error: Exception) -> bool:
    """Whether MLflow was unreachable or had a problem of its own: it may accept the same request later."""
    from mlflow.exceptions import MlflowException, RestException

    if isinstance(error, RestException):
        return error.error_code in OUTAGE_CODES or _lacks_workspace(error)
    status = getattr(getattr(error, "response", None), "status_code", None)  # of an upload that was refused
    if status is not None:
        return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in OUTAGE_STATUSES
    return isinstance(error, MlflowException | OSError)


def _lacks_workspace(error: MlflowException) -> bool:
    """Whether MLflow does not have the workspace yet, or not any more: the service makes it."""
    return error.message.startswith("RESOURCE_DOES_NOT_EXIST: Workspace ")


@contextmanager
def recorded(what: str) -> Iterator[None]:
    """Raise LostRunsError where MLflow does not have `what`, which the block reads or adds to."""
    from mlflow.exceptions import RestException

    try:
        yield
    except RestException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST" or _lacks_workspace(error):
            raise
        raise LostRunsError(
            f"MLflow does not have {what}, which Rung recorded; restore its database ({error.message})"
        ) from error


@contextmanager
def tolerating_refusal(request: str) -> Iterator[None]:
    """Log a request that MLflow refuses for good and continue after the block; other exceptions pass."""
    try:
        yield
    except Exception as error:
        if not is_permanent(error):
            raise
        log.error("MLflow refuses %s: %s", request, error)
