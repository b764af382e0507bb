"""Runs docker/compose.yaml without Docker, in namespaces of Linux:

    python -m tests.cluster up FOLDER
    python -m tests.cluster exec FOLDER rung rung doctor

`up` runs until it is interrupted. FOLDER keeps the volumes and logs. The ports of the file are those of 127.0.0.1.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.cluster.container import Container
from tests.cluster.host import BOUND, why_missing
from tests.cluster.installation import LEFT_OUT, Installation
from tests.cluster.root import Root
from tests.deployment.compose_file import FOLDER, values

ENVIRONMENT = FOLDER / ".env"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start everything, and run until interrupted")
    up.add_argument("folder", type=Path)
    up.add_argument("--workers", type=int, default=1, metavar="N", help="nodes that train (default: 1)")
    inside = commands.add_parser("exec", help="run a command in a container")
    inside.add_argument("folder", type=Path)
    inside.add_argument("container")
    inside.add_argument("words", nargs=argparse.REMAINDER, metavar="command")
    given = parser.parse_args()
    if missing := why_missing():
        print(missing, file=sys.stderr)
        return 1
    variables = values(ENVIRONMENT)
    installation = Installation(given.folder.resolve(), variables, profiles=variables["COMPOSE_PROFILES"].split(","))
    return run(installation, given.workers) if given.command == "up" else enter(installation, given)


def run(installation: Installation, workers: int) -> int:
    wanted = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    with installation:
        print(f"left out: {', '.join(f'{name} ({reason})' for name, reason in LEFT_OUT.items())}")
        print(f"starting {', '.join(installation.services)}", flush=True)
        installation.up({"ray-worker": workers})
        for socket in (installation.folder / "published").iterdir():
            words = ["socat", f"TCP-LISTEN:{socket.name},bind=127.0.0.1,fork,reuseaddr", f"UNIX-CONNECT:{socket}"]
            subprocess.Popen([*BOUND, *words], stdin=subprocess.DEVNULL)
        print("ready", flush=True)
        signal.sigwait(wanted)
    return 0


def enter(installation: Installation, given: argparse.Namespace) -> int:
    service = installation.services[given.container.rstrip("-0123456789")]
    container = Container(service, Root([], Path()), [], "", installation.folder, given.container)
    words = container.inside(*given.words)
    os.execvpe(words[0], words, container.environment)


if __name__ == "__main__":
    sys.exit(main())
