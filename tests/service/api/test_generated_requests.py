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
from typing import Any

import pytest

from service.app import create_app
from service.identity import owner_token
from service.settings import AuthMode, Settings
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
#: A run makes a fixed number of requests, in about 10 s on two idle cores, a slow one in a minute. This only ends one
#: that hangs.
LIMIT_S = 800
#: Coverage cannot list the cases of a whole spec: it made none in 12 s. The other phases submit specs.
CONFIG = """
[[operations]]
include-operation-id = "submit_experiment"
phases.coverage.enabled = false

[checks.negative_data_rejection]  # as by default, and 413: what is too long for its field may be too large for any body
expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429", "5xx"]
"""
#: What MLflow answers for each curve.
HISTORY = b'{"metrics": [{"key": "x", "value": 0.5, "step": 1, "timestamp": 1700000000000}]}'
#: Operations of experiments are linked with each other; time for others would be lost in sequences, and time for
#: insights too: simulated drivers complete no experiment.
EXPERIMENTS_ONLY = ("--include-path-regex", "^/api/v1/experiments", "--exclude-operation-id", "show_insight")
#: Requests of a run that take their experiment from the response before, and succeed.
MIN_FOLLOWED = 8


@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize(
    ("kind", "options", "max_examples", "requests"),  # a little fewer than it makes: they depend on the drivers
    [
        ("single", ("--phases", "examples,fuzzing"), 5, 300),
        ("sequences", ("--phases", "stateful", *EXPERIMENTS_ONLY), 60, 350),
        pytest.param("single", ("--phases", "examples,coverage,fuzzing"), 20, 3_000, marks=pytest.mark.slow),
        pytest.param("sequences", ("--phases", "stateful", *EXPERIMENTS_ONLY), 260, 1_500, marks=pytest.mark.slow),
    ],
    ids=["single", "sequences", "more single", "more sequences"],
)
def test_no_generated_request_finds_a_server_error_or_an_undocumented_response(
    settings: Settings, tmp_path: Path, kind: str, options: tuple[str, ...], max_examples: int, requests: int
) -> None:
    report, config = tmp_path / "report.ndjson", tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    launcher, mlflow = MemoryLauncher(), Mlflow()
    mlflow.overrides = {"": HISTORY}  # to any request
    with serving(mlflow) as uri:
        own = {"reconcile": True, "reconcile_s": 0.1, "mlflow_tracking_uri": uri, "auth": AuthMode.OWNER}
        served = Settings(**{**settings.model_dump(), **own})
        with running(create_app(served, launcher), served) as server, SimulatedDrivers(server.url, launcher):
            result = subprocess.run(
                [
                    *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
                    *("run", f"{server.url}/api/v1/openapi.json"),
                    *("--header", f"Authorization: Bearer {owner_token.read_or_make(served.home)}"),
                    *(*options, "--checks", ",".join(CHECKS), "--max-examples", str(max_examples)),
                    *("--report", "ndjson", "--report-ndjson-path", str(report)),
                    *("--generation-deterministic", "--no-shrink", "--continue-on-failure", "--no-color"),
                ],
                cwd=tmp_path,
                env={**os.environ, "HOME": str(tmp_path)},
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
    assert result.returncode == 0, result.stdout[-20_000:] + result.stderr[-5_000:]
    scenarios = recorded(report)
    assert sum(len(one["interactions"]) for one in scenarios) >= requests, result.stdout[-5_000:]
    if kind == "sequences":
        assert sum(map(followed, scenarios)) >= MIN_FOLLOWED, result.stdout[-5_000:]


def recorded(report: Path) -> list[dict[str, Any]]:
    """The cases and interactions of each scenario that made a request."""
    events = [json.loads(line).get("ScenarioFinished") for line in report.read_text().splitlines()]
    return [event["recorder"] for event in events if event and "interactions" in event["recorder"]]


def followed(scenario: dict[str, Any]) -> int:
    """Its requests that were made along a link and succeeded."""
    return sum(
        bool(case.get("parent_id"))
        and (scenario["interactions"][name].get("response") or {}).get("status_code", 599) < 300
        for name, case in scenario.get("cases", {}).items()
        if name in scenario["interactions"]
    )
