"""What `rung model verify` and `rung export` say of an MLflow that does not give them the model.

Real files on a real MLflow are in tests/e2e/test_registered_model.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from tests.support.handlers import QuietHandler, handling
from workers.winner.cli import SIGN_IN, ModelError, Registered, verify


class Refusing(QuietHandler):
    """As MLflow's basic-auth app does."""

    def respond(self) -> None:
        body = b"You are not authenticated."
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="mlflow"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    for name, value in (("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0"), ("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")):
        monkeypatch.setenv(name, value)
    before = mlflow.get_tracking_uri()
    yield
    mlflow.set_tracking_uri(before)


@pytest.mark.parametrize("uri", ["models:/default.x/1", "mlflow-artifacts:/1/model"])
def test_one_that_does_not_know_the_caller_needs_a_password(uri: str) -> None:
    with handling(Refusing) as address, pytest.raises(ModelError, match="MLFLOW_TRACKING_USERNAME") as caught:
        verify(Registered(uri, "5" * 64, address), None)
    assert str(caught.value).startswith(f"{uri} cannot be downloaded from {address}: ")
    assert str(caught.value).endswith(SIGN_IN)


def test_another_error_does_not_say_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be downloaded") as caught:
        verify(Registered("models:/default.x/1", "5" * 64, f"sqlite:///{tmp_path}/absent/mlflow.db"), None)
    assert SIGN_IN not in str(caught.value)
