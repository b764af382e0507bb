"""Which installation is backed up: that of `rung up`, or the one that settings and options name."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.backup import installation
from service.backup.errors import BackupError


@pytest.mark.parametrize(
    ("environment", "database", "artifacts", "missing"),
    [
        ({"RUNG_STORAGE_ROOT": "/shared"}, None, None, "--mlflow-database, --mlflow-artifacts"),
        ({"RUNG_DATABASE_URL": "sqlite:////rung.db"}, "sqlite:////mlflow.db", None, "--mlflow-artifacts"),
        ({}, None, Path("/artifacts"), "--mlflow-database"),
    ],
)
def test_an_installation_that_is_named_in_part_is_not_that_of_rung_up(
    tmp_path: Path, environment: dict[str, str], database: str | None, artifacts: Path | None, missing: str
) -> None:
    with pytest.raises(
        BackupError, match=f"^{missing} must be given beside .*, or none of them for that of `rung up`$"
    ):
        installation.find(environment, tmp_path, database, artifacts)


def test_a_service_with_a_sqlite_file_in_its_home_has_its_storage_and_mlflow_elsewhere(tmp_path: Path) -> None:
    found = installation.find({"RUNG_STORAGE_ROOT": "/shared"}, tmp_path, "sqlite:////mlflow.db", Path("/artifacts"))
    assert (found.is_home, found.database_url) == (False, f"sqlite:///{tmp_path}/rung.db")
    assert (found.storage, found.mlflow_artifacts) == (Path("/shared"), Path("/artifacts"))
    assert found.mlflow_database_url == "sqlite:////mlflow.db"
