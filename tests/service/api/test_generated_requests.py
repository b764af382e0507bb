"""Requests that Schemathesis makes from the OpenAPI document, also one after another along its links.

The service is served for real, and simulated drivers bring experiments into every state. No response may be a server
error, have a status that is not documented, or differ from its schema.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.app import create_app
from service.settings import Settings
from tests.support.memory_launcher import MemoryLauncher
from tests.support.mlflow_server import Mlflow, serving
from tests.support.server import running
from tests.support.simulated_drivers import SimulatedDrivers

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "negative_data_rejection",
)
#: For all phases together. A run that ends earlier has made all its requests.
BUDGET_S = 50
LIMIT_S = 250
#: What MLflow answers for each curve.
HISTORY = b'{"metrics": [{"key": "x", "value": 0.5, "step": 1, "timestamp": 1700000000000}]}'
#: Operations of experiments are linked with each other; time for others would be lost in sequences.
EXPERIMENTS_ONLY = ("--include-path-regex", "^/api/v1/experiments")
#: Requests that take their experiment from the response before, and succeed. A run on two cores makes about 80.
MIN_FOLLOWED = 10


@pytest.mark.parametrize(
    ("options", "max_examples"),
    [(("--phases", "examples,coverage,fuzzing"), 5), (("--phases", "stateful", *EXPERIMENTS_ONLY), 30)],
    ids=["single", "sequences"],
)
def test_no_generated_request_finds_a_server_error_or_an_undocumented_response(
    settings: Settings, tmp_path: Path, options: tuple[str, ...], max_examples: int
) -> None:
    report = tmp_path / "report.ndjson"
    launcher, mlflow = MemoryLauncher(), Mlflow()
    mlflow.overrides = {"": HISTORY}  # to any request
    with serving(mlflow) as uri:
        own = {"reconcile": True, "reconcile_s": 0.1, "mlflow_tracking_uri": uri}
        served = Settings(**{**settings.model_dump(), **own})
        with running(create_app(served, launcher), served) as server, SimulatedDrivers(server.url, launcher):
            result = subprocess.run(
                [
                    *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/api/v1/openapi.json"),
                    *(*options, "--checks", ",".join(CHECKS), "--max-examples", str(max_examples)),
                    *("--report", "ndjson", "--report-ndjson-path", str(report)),
                    *("--max-time", str(BUDGET_S // 2), "--generation-deterministic", "--no-shrink"),
                    *("--continue-on-failure", "--no-color"),
                ],
                cwd=tmp_path,
                env={**os.environ, "HOME": str(tmp_path)},
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
    assert result.returncode == 0, result.stdout[-20_000:] + result.stderr[-5_000:]
    if "stateful" in options:
        assert followed(report) >= MIN_FOLLOWED, result.stdout[-5_000:]


def followed(report: Path) -> int:
    """The requests that were made along a link and succeeded."""
    events = [json.loads(line).get("ScenarioFinished") for line in report.read_text().splitlines()]
    recorders = [event["recorder"] for event in events if event]
    return sum(
        bool(case.get("parent_id"))
        and (recorder["interactions"][name].get("response") or {}).get("status_code", 599) < 300
        for recorder in recorders
        for name, case in recorder.get("cases", {}).items()
        if name in recorder["interactions"]
    )
