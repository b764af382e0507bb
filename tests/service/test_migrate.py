"""`python -m service.migrate` brings a database up to date, or says on one line why it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from service.store.database import Database


def migrate(home: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RUNG_")}
    return subprocess.run(
        [sys.executable, "-m", "service.migrate"],
        env={**kept, "RUNG_HOME": str(home), **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_new_database_gets_the_newest_schema_and_keeps_it(tmp_path: Path) -> None:
    for _ in range(2):
        done = migrate(tmp_path)
        assert done.returncode == 0, done.stderr
    database = Database(f"sqlite:///{tmp_path / 'rung.db'}")
    facts = database.facts()
    database.close()
    assert facts.revision == facts.newest
    assert done.stdout == f"the schema has the revision {facts.newest}\n"


def test_what_is_wrong_is_on_one_line_and_the_password_is_not(tmp_path: Path) -> None:
    done = migrate(tmp_path, RUNG_DATABASE_URL="postgresql://rung:s3cret@127.0.0.1:1/rung")
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert "cannot use the database" in line
    assert "s3cret" not in line
