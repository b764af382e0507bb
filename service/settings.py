"""Settings: where the service keeps its files and which servers it uses.

Owns the names and defaults of all settings, and the checks of those that depend on others; the rest is checked in
`setting_values`. `environment` reads them; `Settings(home=...)` reads nothing. It must not know who uses a setting.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from service import node_kinds
from service.addresses import check_host, is_every_address, is_loopback, split_credentials
from service.setting_values import (
    MAX_DAYS,
    Addresses,
    Bytes,
    Folder,
    IssuerUrl,
    Keys,
    LauncherName,
    MlflowUrl,
    NodeKinds,
    NodeLabels,
    Seconds,
    StorageRoot,
    Targets,
    default_home,
    expand,
    split_addresses,
)
from service.webhook_targets import AllowedTargets

PREFIX = "RUNG_"


class AuthMode(StrEnum):
    """How the service knows who sends a request."""

    OPEN = "open"
    OWNER = "owner"
    ACCOUNTS = "accounts"


class Settings(BaseModel):
    """All settings. `rung up` sets some of them itself (`service.stack.components`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    home: Path = Field(
        default_factory=lambda: default_home(),
        description="Base folder. Every path below defaults to a subfolder of it.",
    )
    database_url: str = Field("", description="SQLAlchemy URL of the database; default: a SQLite file in `home`.")
    storage_root: StorageRoot = Field(
        "",
        description="Folder of journals, checkpoints and logs, or the address (`s3://...`, `gs://...`, `az://...`) of "
        "a bucket. Must be valid on all nodes.",
    )
    data_root: Folder = Field(Path(), description="Folder of the data sets, as workers see it.")
    data_root_shared: bool = Field(
        False,
        description="Whether the workers see the same `data_root` as the service. Then a missing data set is refused "
        "even where the folder is empty or absent. `rung up` sets it.",
    )
    data_buckets: Addresses = Field(
        "",
        description="Addresses of buckets, such as `s3://pictures/sets`, separated by commas, below which data sets "
        "may be. Without one, specs may name no bucket.",
    )
    cache_root: Folder = Field(Path(), description="Folder of the prepared data sets, as workers see it.")

    host: str = Field("127.0.0.1", description="IP address or host name that the service listens on.")
    port: Annotated[int, Field(ge=1, le=65535, description="Port that the service listens on.")] = 8080
    allowed_hosts: str = Field(
        "",
        validate_default=True,
        description="Host names that clients may use, separated by commas, or `*` for any. Must be given if `host` "
        "stands for all addresses, as 0.0.0.0 and :: do; default: its own host names. localhost and the host of "
        "`service_url` are always accepted.",
    )
    service_url: str = Field(
        "", description="URL at which drivers on the cluster reach the service; default: from `host` and `port`."
    )
    public_url: str = Field("", description="URL of the service in notifications; default: `service_url`.")

    auth: AuthMode = Field(
        AuthMode.ACCOUNTS,
        validate_default=True,
        description="Who may use the service. `accounts`: people and programs with tokens, in teams. `owner`: who can "
        "read the file `owner_token` in `home`. `open`: everybody who reaches the port, which must be on a loopback "
        "address.",
    )
    passwords: bool = Field(True, description="Whether people can sign in with a login and a password.")
    oidc_issuer: IssuerUrl = Field("", description="Issuer URL of the OpenID provider that people sign in with.")
    oidc_client_id: str = Field(
        "", validate_default=True, description="Identifier of this service at the OpenID provider."
    )
    oidc_scopes: str = Field("openid profile email", description="Scopes to ask the provider for.")

    secret_key: Keys = Field(
        "",
        description="Key that encrypts the secrets of webhooks in the database: 32 bytes in URL-safe base64. Of "
        "several, separated by commas, the first encrypts and each decrypts. Without one, there are no webhooks.",
    )
    webhook_allowed_targets: Targets = Field(
        "",
        description="Host names, `host:port`, addresses and networks, separated by commas, to which webhooks may lead "
        "although they are not public, also by http://.",
    )

    launcher: LauncherName = Field("ray_jobs", description="How drivers are started: the name of a launcher.")
    ray_dashboard_url: str = Field("http://127.0.0.1:8265", description="URL of the Ray dashboard, which accepts jobs.")
    ray_timeout_s: Seconds = Field(10.0, description="Timeout of Ray API calls, in seconds.")
    ray_submit_timeout_s: Seconds = Field(
        60.0, description="Timeout of job submission, in seconds. A busy cluster takes long to accept its first job."
    )
    largest_node: NodeKinds = Field(
        "",
        description="What each kind of node has that Ray's autoscaler can add, such as `cpus=64,gpus=8`; several kinds "
        "are separated by `;`, and `label:NAME=VALUE` is a label of a kind. Default: Ray adds no nodes.",
    )
    driver_python: str = Field(sys.executable, description="Path of the Python that has Rung installed on the nodes.")
    warm_workers: Annotated[int, Field(ge=0, le=64)] = Field(
        0,
        description="Number of idle worker processes to keep ready on each node while nothing runs, about 600 MB each.",
    )
    mlflow_tracking_uri: MlflowUrl = Field(
        "http://127.0.0.1:5000",
        description="URL of the MLflow server. The API never returns credentials that are part of the URL.",
    )
    mlflow_public_url: str = Field("", description="URL of MLflow for browsers; default: the tracking URI.")
    mlflow_username: str | None = Field(None, description="User name for an MLflow server that requires one.")
    mlflow_password: str | None = Field(None, description="Password for an MLflow server that requires one.")
    mlflow_workspaces: bool = Field(
        False,
        validate_default=True,
        description="Whether each team has its own workspace in MLflow, of which the service is the administrator. "
        "Needs `accounts`, and an MLflow server with workspaces that asks this service who may do what.",
    )
    mlflow_timeout_s: Seconds = Field(10.0, description="Timeout of MLflow API calls, in seconds.")

    heartbeat_s: Seconds = Field(2.0, description="Interval between two heartbeats of a driver, in seconds.")
    driver_lost_s: Seconds = Field(
        60.0,
        description="Number of seconds that a driver may stay silent after its first heartbeat before it is considered "
        "lost.",
    )
    driver_start_s: Seconds = Field(
        1800.0,
        description="Number of seconds that a driver may take until its first heartbeat before it is considered lost. "
        "On a busy machine a start takes minutes, and Ray reports at once a driver that has ended.",
    )
    stop_grace_s: Seconds = Field(
        120.0, description="Number of seconds that a driver may take to stop before its Ray job is killed."
    )
    max_attempts: Annotated[int, Field(ge=1)] = Field(
        3, description="The experiment ends in ERROR when this many attempts in a row are lost."
    )
    max_drivers: Annotated[int, Field(ge=1)] = Field(
        32,
        description="Largest number of experiments that run at once, also those that only wait for MLflow. Each is a "
        "process on the head node of about 400 MB with what Ray starts beside it, so that 32 take 13 GB. Others wait "
        "in the queue.",
    )
    park_s: Seconds = Field(
        60.0,
        description="Number of seconds after which a running experiment without a slot ends its driver and returns "
        "to the queue.",
    )
    driver_cpus: Annotated[float, Field(ge=0, le=64)] = Field(
        0.0, description="CPUs that Ray reserves for each driver; trials cannot use them."
    )
    driver_memory_mb: Annotated[int, Field(ge=0, le=2**20)] = Field(
        400, description="Memory in MB that Ray reserves for each driver. A driver for which there is none waits."
    )
    driver_labels: NodeLabels = Field(
        "",
        description="Labels of the Ray nodes for drivers, such as `role=driver`, separated by commas; default: drivers "
        "run on the head node.",
    )
    retry_backoff_s: Seconds = Field(
        5.0,
        description="Delay before the first new attempt, in seconds. It doubles with each attempt, up to five minutes.",
    )

    keep_files_days: Annotated[float, Field(gt=0, le=MAX_DAYS)] | None = Field(
        None,
        description="Days after the end of an experiment after which its checkpoints, logs and plots are deleted. "
        "Journals and models stay. Default: never.",
    )

    reconcile: bool = Field(
        True,
        description="Whether this replica may schedule experiments; if not, it only answers requests. While no replica "
        "may, experiments stay QUEUED, pauses and cancellations that wait for a driver do not end, lost drivers are "
        "not noticed, and nothing is deleted.",
    )
    reconcile_s: Seconds = Field(
        2.0, description="How often this replica checks the queue and the cluster, in seconds."
    )
    lease_s: Seconds = Field(
        15.0,
        description="Number of seconds that the replica that schedules may give no sign of life before another one "
        "takes over.",
    )

    log_format: Literal["text", "json"] = Field(
        "text",
        description="How the service writes its log: `text` for people, `json` with one object in each line. The logs "
        "of drivers and trials are always text.",
    )

    max_body_bytes: Bytes = Field(
        2**17, description="Largest size of a request body, in bytes. A spec may have at most 64 KiB."
    )
    max_heartbeat_bytes: Bytes = Field(
        2**22,
        description="Largest size of a driver's heartbeat, in bytes. A driver whose heartbeat is larger sends several.",
    )

    max_requests: Annotated[int, Field(ge=2)] = Field(
        64,
        description="Largest number of people's requests that are answered at once, at most half of them for one "
        "address. Heartbeats are counted apart.",
    )
    max_connections: Annotated[int, Field(ge=2)] = Field(
        500, description="Largest number of open connections. A new one replaces the one that waits longest."
    )
    max_connections_per_address: Annotated[int, Field(ge=1)] = Field(
        64, description="Largest number of open connections from one address, without those of drivers."
    )
    request_timeout_s: Seconds = Field(
        30.0,
        description="Time in which the headers of a request, and its body, must arrive, and in which a client must "
        "read the next part of a response, in seconds.",
    )

    @model_validator(mode="before")
    @classmethod
    def _derive_defaults(cls, given: dict[str, object]) -> dict[str, object]:
        home = expand(str(given.get("home") or default_home())).absolute()
        host, port, mlflow = (
            str(given.get(name) or cls.model_fields[name].default) for name in ("host", "port", "mlflow_tracking_uri")
        )
        loopback = "::1" if ":" in host else "127.0.0.1"
        reachable = loopback if is_every_address(host) else host
        reachable = f"[{reachable}]" if ":" in reachable else reachable
        derived: dict[str, object] = {
            "host": host,
            "database_url": f"sqlite:///{quote(str(home / 'rung.db'), safe='/ ')}",
            "storage_root": str(home / "storage"),
            "data_root": home / "data",
            "cache_root": home / "cache",
            "service_url": f"http://{reachable}:{port}",
        }
        tracking, user, password = split_credentials(mlflow)
        public, *_ = split_credentials(str(given.get("mlflow_public_url") or ""))
        given = {**given, "mlflow_tracking_uri": tracking, "mlflow_public_url": public}
        if user:
            derived |= {"mlflow_username": user, "mlflow_password": password}
        derived["mlflow_public_url"] = tracking
        derived["public_url"] = given.get("service_url") or derived["service_url"]
        return {**given, "home": home, **{name: given.get(name) or value for name, value in derived.items()}}

    @field_validator("mlflow_workspaces")
    @classmethod
    def _check_workspaces_have_teams(cls, wanted: bool, given: ValidationInfo) -> bool:
        if wanted and given.data.get("auth", AuthMode.ACCOUNTS) is not AuthMode.ACCOUNTS:
            raise ValueError(f"must be false unless {variable('auth')} is accounts")
        if wanted and not (given.data.get("mlflow_username") and given.data.get("mlflow_password")):
            needed = f"{variable('mlflow_username')} and {variable('mlflow_password')}"
            raise ValueError(f"must be false without {needed}, those of MLflow's administrator")
        return wanted

    @field_validator("data_buckets")
    @classmethod
    def _check_storage_is_no_data(cls, addresses: str, given: ValidationInfo) -> str:
        """Who may submit a spec could read files of all teams."""
        storage = f"{given.data.get('storage_root', '')}/"
        for address in split_addresses(addresses):
            if storage.startswith(f"{address}/") or f"{address}/".startswith(storage):
                raise ValueError(f"must not contain {variable('storage_root')}, nor be in it (got {address!r})")
        return addresses

    @field_validator("auth")
    @classmethod
    def _check_open_is_local(cls, auth: AuthMode, given: ValidationInfo) -> AuthMode:
        """Without tokens, everybody on the network could delete everything."""
        host = given.data.get("host")
        if auth is AuthMode.OPEN and host is not None and not is_loopback(host):
            raise ValueError(
                f"must be accounts or owner, because {variable('host')} is {host}, which others on the network reach"
            )
        return auth

    @field_validator("oidc_client_id")
    @classmethod
    def _check_oidc_is_complete(cls, client_id: str, given: ValidationInfo) -> str:
        if bool(client_id) != bool(given.data.get("oidc_issuer", client_id)):
            raise ValueError(f"must be given together with {variable('oidc_issuer')}")
        return client_id

    @field_validator("ray_dashboard_url", "mlflow_public_url", "service_url", "public_url")
    @classmethod
    def _check_http(cls, address: str, given: ValidationInfo) -> str:
        sources = {
            "mlflow_public_url": {"mlflow_tracking_uri"},
            "service_url": {"host", "port"},
            "public_url": {"host", "port", "service_url"},
        }
        derived = not sources.get(str(given.field_name), set()) <= given.data.keys()  # from what is reported already
        if not derived and not address.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        if not derived:
            check_host(address)
        return address

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts_are_named(cls, names: str, given: ValidationInfo) -> str:
        """A page in a browser can bind a name of its own to this machine: names that are not listed are refused."""
        if not any(map(str.strip, names.split(","))) and is_every_address(given.data.get("host", "")):
            raise ValueError(
                f"must list the host names under which clients reach the service, because {variable('host')} stands "
                "for all addresses of this machine; * allows any name"
            )
        return names

    @property
    def driver_node_labels(self) -> dict[str, str]:
        """The labels that the nodes of drivers must have."""
        pairs = (label.partition("=") for label in self.driver_labels.split(",") if label.strip())
        return {name.strip(): value.strip() for name, _, value in pairs}

    @property
    def node_kinds(self) -> tuple[node_kinds.NodeKind, ...]:
        return node_kinds.parse(self.largest_node)

    @property
    def hosts(self) -> frozenset[str]:
        """Host names that requests may have; `*` for any. Those of this machine and of the drivers are always valid."""
        given = (name.strip().lower() for name in self.allowed_hosts.split(","))
        own = {"127.0.0.1", "localhost", "::1", self.host.lower(), urlsplit(self.service_url).hostname}
        return frozenset(name for name in {*own, *given} if name)

    @property
    def secret_keys(self) -> list[str]:
        """The keys that secrets are encrypted with, the newest first."""
        return [key.strip() for key in self.secret_key.split(",") if key.strip()]

    @property
    def allowed_data_buckets(self) -> list[str]:
        return split_addresses(self.data_buckets)

    @property
    def allowed_targets(self) -> AllowedTargets:
        return AllowedTargets.parse(self.webhook_allowed_targets)

    @property
    def sqlalchemy_url(self) -> str:
        """The URL of the database with the driver that is installed."""
        scheme, separator, rest = self.database_url.partition("://")
        return f"{'postgresql+psycopg' if scheme in {'postgres', 'postgresql'} else scheme}{separator}{rest}"


def variable(setting: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + setting.upper()
