"""What the service asks of Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from search_spaces.protocol import LaunchConfig
from service.adapters.launchers.ray_jobs import RayLauncher


def every_request(launcher: RayLauncher, launch: LaunchConfig) -> list[Callable[[], Any]]:
    """One call for each kind of request."""
    return [
        launcher.cluster,
        launcher.raylets,
        lambda: launcher.status("x"),
        lambda: launcher.stop("x"),
        lambda: launcher.logs("x"),
        lambda: launcher.launch(launch),
    ]
