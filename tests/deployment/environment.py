"""Environment: values for the variables of docker/env.example, as an operator would fill them in."""

from __future__ import annotations

import base64
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.deployment.compose_file import FOLDER, values

EXAMPLE = FOLDER / "env.example"
PASSWORDS = (
    "POSTGRES_PASSWORD",
    "RUNG_DATABASE_PASSWORD",
    "MLFLOW_DATABASE_PASSWORD",
    "RAY_AUTH_TOKEN",
    "GRAFANA_PASSWORD",
    "MLFLOW_ADMIN_PASSWORD",
    "MLFLOW_COOKIE_SECRET",
)
CADDY = Path(sys.executable).with_name("caddy")


def example() -> dict[str, str]:
    return values(EXAMPLE)


def filled_in() -> Mapping[str, str]:
    """The variables with every value that has no default."""
    return {
        **example(),
        "RUNG_DOMAIN": "rung.example.com",
        "MLFLOW_DOMAIN": "mlflow.example.com",
        "GRAFANA_DOMAIN": "grafana.example.com",
        "CADDY_TLS": "local_certs",
        **{name: secrets.token_hex(32) for name in PASSWORDS},
        "RUNG_SECRET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    }
