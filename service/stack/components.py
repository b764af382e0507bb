"""Components: the three processes of a stack, each as data: its command, its environment, and when it is ready.

Owns every option and variable that they get, and which settings of the caller they get. It starts nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from search_spaces.protocol import API_PREFIX
from service.settings import PREFIX, VARIABLES, SettingsError, read_settings
from service.stack import home as folder
from service.stack.home import Addresses, StackError
from service.stack.ports import LOOPBACK

#: Settings that a stack decides itself, so that it never uses the database, the files or the servers of another
#: service. It forwards all others.
OWNED = frozenset(
    {
        "home", "host", "port", "service_url", "database_url", "storage_root", "launcher", "ray_dashboard_url",
        "driver_python", "mlflow_tracking_uri", "mlflow_public_url", "mlflow_username", "mlflow_password", "reconcile",
    }
)  # fmt: skip
#: Forwarded settings that are paths: the components run in the home folder, so relative paths are made absolute.
PATHS = frozenset({"data_root", "cache_root"})
#: Ray uses the same numbers for these ports on every start unless they are given; two Rays on a machine would collide.
RAY_PORTS = ("port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
#: Trials for which a worker is kept warm by default, about 600 MB each; one further worker is kept warm.
MAX_WARM_TRIALS = 4


@dataclass(frozen=True)
class Check:
    """A URL, and whether its answer shows that the component is ready."""

    url: str
    is_ready: Callable[[httpx.Response], bool]


@dataclass(frozen=True)
class Component:
    """One process of the stack. It is ready when all its checks pass."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Caller:
    """What the environment of `rung up` says: the settings to forward, and the variables that have no effect."""

    forwarded: Mapping[str, str]
    ignored: tuple[str, ...]


def read_caller(environment: Mapping[str, str], host: str) -> Caller:
    """Raises StackError, which names every invalid and every misspelled variable. The service will listen on `host`."""
    given = {name: value for name, value in environment.items() if name.upper().startswith(PREFIX)}
    owned = {name for name in given if VARIABLES.get(name.upper()) in OWNED}
    try:
        read_settings({**{name: value for name, value in given.items() if name not in owned}, "RUNG_HOST": host})
    except SettingsError as error:
        raise StackError(str(error)) from error
    forwarded = {
        variable: str(Path(value).expanduser().absolute()) if VARIABLES[variable] in PATHS else value
        for name, value in given.items()
        if (variable := name.upper()) in VARIABLES and name not in owned
    }
    return Caller(forwarded, tuple(sorted(owned - {"RUNG_HOME"})))  # the option --home reads that one


def ray(
    home: Path,
    at: Addresses,
    ports: Mapping[str, int],
    num_cpus: int | None,
    num_gpus: int | None,
    environment: Mapping[str, str],
) -> Component:
    dashboard = at.ray_dashboard.rpartition(":")[2]
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats",
        f"--dashboard-host={LOOPBACK}", f"--dashboard-port={dashboard}",
        f"--temp-dir={folder.ray_folder(home)}",
        *(f"--{option}={port}" for option, port in ports.items()),
    ]  # fmt: skip
    for option, value in (("num-cpus", num_cpus), ("num-gpus", num_gpus)):
        command += [f"--{option}={value}"] if value is not None else []
    settings = {
        # The only switch that makes a Ray head listen on loopback only; on Linux it is on by default.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
        "PL_DISABLE_FORK": "1",  # Tune would set it in the process of each trial
        "RAY_preload_python_modules": "workers.preload",
        "RAY_prestart_worker_first_driver": "0",  # they would slow down the imports of the warm workers
    }
    # If Ray answers 401 to a request without its token, it is running.
    version = Check(f"{at.ray_dashboard}/api/version", lambda answer: answer.status_code in {200, 401})
    return Component("ray", command, {**environment, **settings}, (version,))


def mlflow(home: Path, at: Addresses, environment: Mapping[str, str]) -> Component:
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--workers", "1",
        "--port", at.mlflow.rpartition(":")[2],
        "--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}",
        "--artifacts-destination", str(home / "artifacts"),
    ]  # fmt: skip
    health = Check(f"{at.mlflow}/health", lambda answer: answer.status_code == 200)
    return Component("mlflow", command, environment, (health,))


def service(at: Addresses, environment: Mapping[str, str]) -> Component:
    command = [sys.executable, "-m", "service.app"]
    checks = (Check(f"{at.service}/readyz", sees_all), Check(f"{at.service}{API_PREFIX}/cluster", sees_a_node))
    return Component("service", command, environment, checks)


def common_environment(
    home: Path, at: Addresses, host: str, cpus: int, caller: Mapping[str, str], forwarded: Mapping[str, str]
) -> dict[str, str]:
    """The variables of all components. Variables of another Ray, MLflow or Rung are removed, except `forwarded`."""
    inherited = {
        name: value
        for name, value in caller.items()
        if not name.startswith(("RAY_", "MLFLOW_")) and not name.upper().startswith(PREFIX)  # as `read_settings` does
    }
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{caller.get('PATH', os.defpath)}",
        **dict.fromkeys(("NO_PROXY", "no_proxy"), _without_proxy(caller, host)),
        "PYTHONUNBUFFERED": "1",
        "TZ": "UTC",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": folder.ray_token(home),
        "RUNG_HOME": str(home),
        "RUNG_HOST": host,
        "RUNG_PORT": at.service.rpartition(":")[2],
        "RUNG_RAY_DASHBOARD_URL": at.ray_dashboard,
        "RUNG_MLFLOW_TRACKING_URI": at.mlflow,
        "RUNG_DATA_ROOT": at.data_root,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a process for jobs that nobody here submits
    }
    return {"RUNG_WARM_WORKERS": str(min(MAX_WARM_TRIALS, cpus) + 1), **inherited, **forwarded, **own}


def sees_all(readyz: httpx.Response) -> bool:
    """Whether the service reports that its database, Ray and MLflow answer: a stack starts all three."""
    if readyz.status_code != 200:
        return False
    readiness = readyz.json()
    return bool(readiness["ready"] and readiness["ray"]["ok"] and readiness["mlflow"]["ok"])


def sees_a_node(cluster: httpx.Response) -> bool:
    """Whether the service sees a living node."""
    return cluster.status_code == 200 and bool(cluster.json()["nodes"])


def _without_proxy(environment: Mapping[str, str], host: str) -> str:
    """The hosts to reach without a proxy: the caller's, and this machine."""
    before = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    return ",".join(dict.fromkeys(filter(None, [*before.split(","), LOOPBACK, "localhost", host])))
