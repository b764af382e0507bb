"""The program of `rung backup` and `rung restore`: `python -m service.backup`, with a request as JSON on its standard
input: URLs may hold passwords, and others see the arguments of a process.

Exit status: 0 done; 2 it cannot be done as asked, and nothing was changed; 1 it failed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from service.backup import installation, making, restoring
from service.backup.errors import BackupError
from service.environment import SettingsError
from service.stack.home import StackError
from service.store.database import DatabaseUnusableError


class Request(BaseModel):
    """What is to be done."""

    action: Literal["make", "restore"]
    folder: Path
    home: Path
    mlflow_database: str | None
    mlflow_artifacts: Path | None


def main() -> int:
    asked = Request.model_validate_json(sys.stdin.read())
    try:
        found = installation.find(os.environ, asked.home.absolute(), asked.mlflow_database, asked.mlflow_artifacts)
        act = making.make if asked.action == "make" else restoring.restore
        manifest = act(found, asked.folder.absolute())
    except (BackupError, SettingsError, StackError, DatabaseUnusableError) as error:
        print(f"rung: {error}", file=sys.stderr)
        return 2
    except (OSError, SQLAlchemyError) as error:
        print(f"rung: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    print(manifest.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
