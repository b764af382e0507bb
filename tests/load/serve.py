"""The service in a process of its own, with a cluster in memory: `python -m tests.load.serve HOME` prints its URL."""

from __future__ import annotations

import sys
from pathlib import Path

from service.app import create_app
from service.domain.cluster import Cluster, Node
from service.settings import AuthMode, Settings
from tests.support.memory_launcher import MemoryLauncher
from tests.support.server import running


def main(home: Path) -> None:
    """Serve until the standard input ends."""
    settings = Settings(home=home, auth=AuthMode.OPEN, mlflow_tracking_uri="http://127.0.0.1:9")
    launcher = MemoryLauncher()
    launcher.nodes = Cluster((Node("a", cpus=3),))
    with running(create_app(settings, launcher), settings) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
