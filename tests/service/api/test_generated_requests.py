"""Requests that Schemathesis makes from the OpenAPI document, also one after another along its links.

The service is served for real, and simulated drivers bring experiments into every state. No response may be a server
error, have a status that is not documented, or differ from its schema.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.app import create_app
from service.settings import Settings
from tests.support.memory_launcher import MemoryLauncher
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


@pytest.mark.parametrize(
    ("phases", "max_examples"), [("examples,coverage,fuzzing", 5), ("stateful", 30)], ids=["single", "sequences"]
)
def test_no_generated_request_finds_a_server_error_or_an_undocumented_response(
    settings: Settings, tmp_path: Path, phases: str, max_examples: int
) -> None:
    served = Settings(**{**settings.model_dump(), "reconcile": True, "reconcile_s": 0.1})
    launcher = MemoryLauncher()
    with running(create_app(served, launcher), served) as server, SimulatedDrivers(server.url, launcher):
        result = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/api/v1/openapi.json"),
                *("--phases", phases, "--checks", ",".join(CHECKS), "--max-examples", str(max_examples)),
                *("--max-time", str(BUDGET_S // 2), "--seed", "7", "--generation-deterministic", "--no-shrink"),
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
