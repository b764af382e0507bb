"""Components: the three processes of a stack, each as data: its command, its environment, and when it is ready.

Owns every option and variable that they get, and which settings of the caller they get. It starts nothing.
"""

from __future__ import annotations

import os
import pwd
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from search_spaces.protocol import API_PREFIX
from service.contract.home_files import MLFLOW_USER
from service.environment import VARIABLES, SettingsError, read_settings
from service.setting_values import expand
from service.settings import PREFIX
from service.stack.home import Addresses, StackOptionError, owner_token, ray_token, secret_key
from service.stack.ports import LOOPBACK
from service.stack.ray_folder import session_log

#: Settings that a stack decides itself, so that it never uses the database, the files or the servers of another
#: service. It forwards all others.
OWNED = frozenset(
    {
        "home", "host", "port", "service_url", "database_url", "storage_root", "launcher", "ray_dashboard_url",
        "driver_python", "passwords", "oidc_issuer", "oidc_client_id", "oidc_scopes", "mlflow_tracking_uri",
        "mlflow_public_url", "mlflow_username", "mlflow_password", "mlflow_workspaces", "reconcile", "data_root_shared",
        "secret_key",
    }
)  # fmt: skip
#: Who may use the service. A stack has one user: people and teams need a service that does not end with a terminal.
AUTH, AUTHS = "RUNG_AUTH", ("owner", "open")
#: Forwarded settings that are paths: the components run in the home folder, so relative paths are made absolute.
PATHS = frozenset({"data_root", "cache_root"})
#: Ray uses the same numbers for these ports on every start unless they are given; two Rays on a machine would collide.
RAY_PORTS = ("port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
#: Variables that change how servers and Python run, and that belong to other programs of the caller. A stack sets
#: `PYTHONUTF8`, which takes the place of `PYTHONIOENCODING`.
REMOVED = frozenset(
    {"WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS", "PYTHONWARNINGS", "PYTHONINSPECT", "PYTHONIOENCODING", "PYTHONUTF8"}
)
REMOVED_PREFIXES = ("RAY_", "TUNE_", "MLFLOW_", "_MLFLOW_", "UVICORN_", "GUNICORN_", "FLASK_")
#: Variables that name files or folders. One that names nothing makes every encrypted connection fail.
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
#: Where Python looks for the name of a user whom the system does not know.
USER_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
#: How long Ray waits for its own parts, in seconds. The stack decides whether a start takes too long (`patience`).
RAY_PATIENCE_S = 1200
#: Programs of Ray for which `ray start` waits as long as that, also if they have ended.
RAY_VITAL = ("gcs_server", "raylet")
#: Of each stream that a process prints to, and of each log of Ray itself; two such files are kept.
RAY_LOG_BYTES = 10 * 2**20
#: Trials for which a worker is kept warm by default, about 600 MB each; one further worker is kept warm.
MAX_WARM_TRIALS = 4


@dataclass(frozen=True)
class Check:
    """A URL, whether its answer shows that the component is ready, the other component that it waits for if any, and
    the token that the URL needs, if there is one yet."""

    url: str
    is_ready: Callable[[httpx.Response], bool]
    cause: Callable[[httpx.Response], str | None] = lambda answer: None
    token: Callable[[], str] = lambda: ""


@dataclass(frozen=True)
class Component:
    """One process of the stack. It is ready when all its checks pass. `inner_log` finds a log besides its output;
    `vital` are programs that it runs, without which it never gets ready."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    checks: tuple[Check, ...]
    inner_log: Callable[[], Path | None] = lambda: None
    vital: tuple[str, ...] = ()


@dataclass(frozen=True)
class Caller:
    """What the environment of `rung up` says: the settings to forward, the settings that have no effect, and the
    variables that name certificates which are not there."""

    forwarded: Mapping[str, str]
    ignored: tuple[str, ...]
    missing: tuple[str, ...] = ()


def read_caller(environment: Mapping[str, str], host: str) -> Caller:
    """Raises StackOptionError, which names every invalid and every misspelled variable.

    The service will listen on `host`.
    """
    given = {name: value for name, value in environment.items() if name.upper().startswith(PREFIX)}
    owned = {name for name in given if VARIABLES.get(name.upper()) in OWNED}
    try:
        own = {"RUNG_HOST": host, "RUNG_HOME": os.sep}  # of the home, only that there is one
        read_settings({**{name: value for name, value in given.items() if name not in owned}, **own})
    except SettingsError as error:
        raise StackOptionError(str(error)) from error
    forwarded = {
        variable: str(expand(value).absolute()) if VARIABLES[variable] in PATHS else value
        for name, value in given.items()
        if (variable := name.upper()) in VARIABLES and name not in owned
    }
    if (auth := forwarded.get(AUTH, "owner")) not in AUTHS:
        raise StackOptionError(
            f"{AUTH}: must be {' or '.join(AUTHS)} for `rung up` (got {auth}); for people and teams, run "
            "`python -m service.app` (docs/teams.md)"
        )
    ignored = tuple(sorted(owned - {"RUNG_HOME"}))  # the option --home reads that one
    return Caller(forwarded, ignored, missing_certificates(environment))


def ray(
    temporary: Path,
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
        f"--temp-dir={temporary}",
        "--min-worker-port=0", "--max-worker-port=0",  # any free port: the default range may hold one given to us
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
        "RAY_ROTATION_MAX_BYTES": str(RAY_LOG_BYTES),
        "RAY_ROTATION_BACKUP_COUNT": "1",
        "RAY_TMPDIR": str(temporary),  # the default is shared by all users of the machine
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(RAY_PATIENCE_S),
        "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": str(RAY_PATIENCE_S),
        "RAY_gcs_server_port_wait_time_s": str(RAY_PATIENCE_S),
        "RAY_raylet_start_wait_time_s": str(RAY_PATIENCE_S),
        "RAY_agent_register_timeout_ms": str(RAY_PATIENCE_S * 1000),
        "RAY_worker_register_timeout_seconds": str(RAY_PATIENCE_S),
        "RAY_health_check_timeout_ms": "60000",  # the head is the only node: if it ends, the stack ends
    }
    # If Ray answers 401 to a request without its token, it is running.
    version = Check(f"{at.ray_dashboard}/api/version", lambda answer: answer.status_code in {200, 401})
    return Component("ray", command, {**environment, **settings}, (version,), lambda: session_log(temporary), RAY_VITAL)


def mlflow(at: Addresses, environment: Mapping[str, str], password: str) -> Component:
    """Its paths are relative to the home folder, in which it runs: in a URL, some characters have another meaning.

    It has one user with this password; without one, everybody who reaches its port is served.
    """
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--workers", "1",
        "--port", at.mlflow.rpartition(":")[2],
        "--backend-store-uri", "sqlite:///mlflow.db",
        "--artifacts-destination", "artifacts",
    ]  # fmt: skip
    own = _without(environment, "RAY_AUTH_TOKEN")
    if password:
        command += ["--app-name", "basic-auth"]
        own |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(Path(__file__).with_name("mlflow_auth.ini")),
            "MLFLOW_AUTH_ADMIN_USERNAME": MLFLOW_USER,
            "MLFLOW_AUTH_ADMIN_PASSWORD": password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
        }
    health = Check(f"{at.mlflow}/health", lambda answer: answer.status_code == 200)
    return Component("mlflow", command, own, (health,))


def service(at: Addresses, environment: Mapping[str, str], mlflow_password: str) -> Component:
    """It has one user, whose token is in the home folder, unless the caller asks for RUNG_AUTH=open. Nothing else has
    the key for secrets in its database."""
    if mlflow_password:
        environment = {**environment, "RUNG_MLFLOW_USERNAME": MLFLOW_USER, "RUNG_MLFLOW_PASSWORD": mlflow_password}
    command = [sys.executable, "-m", "service.app"]
    home = Path(environment["RUNG_HOME"])
    own = {AUTH: "owner", **environment, "RUNG_SECRET_KEY": secret_key(home)}
    checks = (
        Check(f"{at.service}/readyz", sees_all, misses),
        Check(f"{at.service}{API_PREFIX}/cluster", sees_a_node, lambda answer: "ray", lambda: owner_token(home)),
    )
    return Component("service", command, own, checks)


def _without(environment: Mapping[str, str], secret: str) -> dict[str, str]:
    """The variables of a component that does not need `secret`."""
    return {name: value for name, value in environment.items() if name != secret}


def common_environment(
    home: Path, at: Addresses, host: str, cpus: int, caller: Mapping[str, str], forwarded: Mapping[str, str]
) -> dict[str, str]:
    """The variables of all components. Variables of another Ray, MLflow or Rung are removed, except `forwarded`."""
    inherited = {
        name: value
        for name, value in caller.items()
        if not name.startswith(REMOVED_PREFIXES)
        and not name.upper().startswith(PREFIX)  # as `read_settings` does
        and name not in REMOVED
        and name not in missing_certificates(caller)
    }
    if "PYTHONPATH" in caller:  # the components run in the home folder
        inherited["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, caller["PYTHONPATH"].split(os.pathsep)))
    inherited |= _user(home, caller)
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{caller.get('PATH', os.defpath)}",
        **dict.fromkeys(("NO_PROXY", "no_proxy"), _without_proxy(caller, host)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",  # whatever the language: Ray and MLflow read files without naming the encoding
        "TZ": "UTC",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": ray_token(home),
        "RUNG_HOME": str(home),
        "RUNG_HOST": host,
        "RUNG_PORT": at.service.rpartition(":")[2],
        "RUNG_RAY_DASHBOARD_URL": at.ray_dashboard,
        "RUNG_MLFLOW_TRACKING_URI": at.mlflow,
        "RUNG_DATA_ROOT": at.data_root,
        "RUNG_DATA_ROOT_SHARED": "true",
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


def misses(readyz: httpx.Response) -> str | None:
    """The component that the service waits for, if it says so."""
    try:
        readiness = readyz.json()
        return next((name for name in ("ray", "mlflow") if not readiness[name]["ok"]), None)
    except (ValueError, LookupError, TypeError):
        return None


def sees_a_node(cluster: httpx.Response) -> bool:
    """Whether the service sees a living node."""
    return cluster.status_code == 200 and bool(cluster.json()["nodes"])


def _without_proxy(environment: Mapping[str, str], host: str) -> str:
    """The hosts to reach without a proxy: the caller's, and this machine."""
    before = ",".join(environment.get(name, "") for name in ("no_proxy", "NO_PROXY"))
    return ",".join(dict.fromkeys(filter(None, [*map(str.strip, before.split(",")), LOOPBACK, "localhost", host])))


def missing_certificates(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The variables for certificates that name no file or folder."""
    return tuple(name for name in CERTIFICATES if (path := environment.get(name)) and not os.path.exists(path))


def _user(home: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables for a user whom the system does not know, as in a container: the home folder, and a name."""
    own = {} if environment.get("HOME") or _account() else {"HOME": str(home)}
    if not _account() and not any(map(environment.get, USER_NAMES)):
        own |= {"USER": "rung", "LOGNAME": "rung"}
    return own


def _account() -> str | None:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None
