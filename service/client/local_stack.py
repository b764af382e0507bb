"""Local stack: the `rung up` of this person on this machine, its owner token, and the password of its MLflow.

Owns where they are found, and that a secret is used only while the `rung up` runs that it belongs to: the port of one
that has ended may be another person's now. It must not know how a secret is sent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from service.client.private_files import read_private
from service.client.token_store import origin_of
from service.contract.home_files import MLFLOW_PASSWORD, MLFLOW_USER, OWNER_TOKEN, STACK


def home_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder of RUNG_HOME, by default ~/.rung; None for a user without a home folder."""
    path = os.path.expanduser(environment.get("RUNG_HOME") or "~/.rung")
    return None if path.startswith("~") else Path(path)


def running_stack(home: Path | None) -> dict[str, object]:
    """What the address file of a home says; empty where no stack has written one."""
    if home is None:
        return {}
    try:
        found = json.loads((home / STACK).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def owner_token(url: str, home: Path | None) -> str | None:
    """The token of the running `rung up` of a home, if the URL has its origin.

    Raises PrivateFileError if others can read the token.
    """
    return _secret(url, home, "service", OWNER_TOKEN)


def mlflow_login(url: str, home: Path | None) -> dict[str, str]:
    """The variables by which MLflow's client signs in to the MLflow of the running `rung up` of a home; empty for a URL
    of another origin.

    Raises PrivateFileError if others can read the password.
    """
    password = _secret(url, home, "mlflow", MLFLOW_PASSWORD)
    return {"MLFLOW_TRACKING_USERNAME": MLFLOW_USER, "MLFLOW_TRACKING_PASSWORD": password} if password else {}


def _secret(url: str, home: Path | None, component: str, name: str) -> str | None:
    stack = running_stack(home)
    address, pid = stack.get(component), stack.get("pid")
    if home is None or not isinstance(address, str) or not isinstance(pid, int) or origin_of(address) != origin_of(url):
        return None
    if not _is_own_process(pid):
        return None
    text = read_private(home / name)
    return text.strip() if text else None


def _is_own_process(pid: int) -> bool:
    """Whether a process runs that this user may signal."""
    if pid <= 0:  # it would stand for several processes
        return False
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):
        return False
    return True
