"""The service as a process of its own, over a cluster in memory: it can be killed.

`python -m tests.support.service_process` serves on a free port, with the settings of its environment, and prints its
URL.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx

from tests.support.memory_launcher import MemoryLauncher


@contextlib.contextmanager
def service_process(settings: Mapping[str, str]) -> Iterator[httpx.Client]:
    """A client of a service that is killed (SIGKILL) at the end of the block."""
    environment = {**os.environ, **settings}
    command = [sys.executable, "-m", "tests.support.service_process"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=environment) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
                yield client
        finally:
            process.send_signal(signal.SIGKILL)


def main() -> None:
    from service.app import create_app
    from service.environment import read_settings
    from tests.support.server import running

    settings = read_settings(os.environ)
    with running(create_app(settings, MemoryLauncher()), settings) as server:
        print(server.url, flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
