"""Migrate: bring the schema of the service's database up to date, and end.

`python -m service.migrate` reads the settings of the service. It is for installations that migrate before they start
replicas; a service that starts does the same. It must not know what is in the database.
"""

from __future__ import annotations

import os
import sys

from service.environment import SettingsError, read_settings
from service.store.database import Database, DatabaseUnusableError


def main() -> None:
    """Print the revision of the schema, or what is wrong on one line of stderr with status 2."""
    try:
        database = Database.open(read_settings(os.environ).sqlalchemy_url)
    except (SettingsError, DatabaseUnusableError) as error:
        print("; ".join(str(error).splitlines()), file=sys.stderr)
        sys.exit(2)
    try:
        print(f"the schema has the revision {database.facts().revision}")
    finally:
        database.close()


if __name__ == "__main__":
    main()
