"""Settings: where the service keeps things and whom it talks to, read from RUNG_* variables when asked to.

Nothing is read at import; `Settings()` reads the environment, `Settings(home=...)` in tests does not need it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """One value each, with a default that suits the embedded stack."""

    model_config = SettingsConfigDict(env_prefix="RUNG_", frozen=True, extra="ignore", hide_input_in_errors=True)

    home: Path = Field(default_factory=lambda: Path.home() / ".rung")
    database_url: str = Field("", description="SQLAlchemy URL; default: SQLite in home")
    storage_root: Path = Field(Path(), description="a folder per experiment; shared by all nodes of a cluster")
    data_root: Path = Field(Path(), description="data sets, as the workers see them")
    cache_root: Path = Field(Path(), description="prepared data sets, as the workers see them")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    allowed_hosts: str = Field(
        "", description="names by which clients reach the service, with commas; default: its own, or * on 0.0.0.0"
    )
    service_url: str = Field("", description="address at which drivers reach the service; default: host and port")

    ray_dashboard_url: str = "http://127.0.0.1:8265"
    ray_timeout_s: Seconds = 10.0
    driver_python: str = Field(sys.executable, description="the Python that has Rung installed, on the cluster's nodes")
    warm_workers: Annotated[int, Field(ge=0, le=64)] = Field(
        0, description="idle worker processes kept ready on each node while nothing runs, about 600 MB each"
    )
    ray_submit_timeout_s: Seconds = Field(60.0, description="the first job of a busy cluster takes long to accept")
    mlflow_tracking_uri: str = "http://127.0.0.1:5000"
    mlflow_public_url: str = Field("", description="MLflow as a browser reaches it; default: the tracking URI")
    mlflow_username: str | None = None
    mlflow_password: str | None = None
    mlflow_timeout_s: Seconds = 10.0

    heartbeat_s: Seconds = 2.0
    driver_lost_s: Seconds = Field(60.0, description="silence after which a driver is taken for lost")
    driver_start_s: Seconds = Field(180.0, description="a driver's time from its submission to its first heartbeat")
    stop_grace_s: Seconds = Field(120.0, description="time to obey a cancel before the job is stopped from outside")
    max_attempts: Annotated[int, Field(ge=1)] = Field(3, description="drivers that may fail before the experiment does")
    retry_backoff_s: Seconds = Field(
        5.0, description="wait before the second attempt; doubled for each further one, up to five minutes"
    )

    keep_files_days: Annotated[float, Field(gt=0)] | None = Field(
        None, description="checkpoints, logs and pictures of experiments that ended longer ago are removed; None: kept"
    )

    reconcile: bool = Field(True, description="False: answer REST only, and leave the queue to another replica")
    reconcile_s: Seconds = 2.0
    lease_s: Seconds = Field(15.0, description="a silent replica loses the queue after this time")

    max_body_bytes: Annotated[int, Field(ge=1024)] = 2**20
    max_heartbeat_bytes: Annotated[int, Field(ge=1024)] = 2**25

    @model_validator(mode="before")
    @classmethod
    def _derived_defaults(cls, given: dict[str, object]) -> dict[str, object]:
        home = Path(str(given.get("home") or Path.home() / ".rung")).expanduser().absolute()
        host = str(given.get("host") or "127.0.0.1")
        reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        reachable = f"[{reachable}]" if ":" in reachable else reachable
        derived: dict[str, object] = {
            "database_url": f"sqlite:///{home / 'rung.db'}",
            "storage_root": home / "storage",
            "data_root": home / "data",
            "cache_root": home / "cache",
            "service_url": f"http://{reachable}:{given.get('port') or 8080}",
        }
        tracking, user, password = _without_user(str(given.get("mlflow_tracking_uri") or "http://127.0.0.1:5000"))
        public, *_ = _without_user(str(given.get("mlflow_public_url") or ""))
        given = {**given, "mlflow_tracking_uri": tracking, "mlflow_public_url": public}
        if user:
            derived |= {"mlflow_username": user, "mlflow_password": password}
        derived["mlflow_public_url"] = tracking
        return {**given, "home": home, **{name: given.get(name) or value for name, value in derived.items()}}

    @field_validator("mlflow_tracking_uri")
    @classmethod
    def _a_server(cls, address: str) -> str:
        """Drivers would write to a database or a folder too, but nobody here could read it, or end what they left."""
        if not address.startswith(("http://", "https://")):
            scheme = address.partition(":")[0]
            raise ValueError(f"an MLflow server at http:// or https:// required, got {scheme}: start one upon it")
        return address

    @field_validator("ray_dashboard_url", "mlflow_public_url", "service_url")
    @classmethod
    def _an_address(cls, address: str, given: ValidationInfo) -> str:
        derived = given.field_name == "mlflow_public_url" and "mlflow_tracking_uri" not in given.data
        if not derived and not address.startswith(("http://", "https://")):
            raise ValueError("an address that begins with http:// or https:// required")
        return address

    @field_validator("storage_root", "data_root", "cache_root")
    @classmethod
    def _from_the_root(cls, folder: Path) -> Path:
        """Drivers and trials run elsewhere than the service."""
        return folder.expanduser().absolute()

    @property
    def hosts(self) -> frozenset[str]:
        """Names that a request's Host may have; `*` for any. Those of this machine and of its drivers always are."""
        default = "*" if self.host in {"0.0.0.0", "::"} else ""
        given = (name.strip().lower() for name in (self.allowed_hosts or default).split(","))
        own = {"127.0.0.1", "localhost", "::1", self.host.lower(), urlsplit(self.service_url).hostname}
        return frozenset(name for name in {*own, *given} if name)

    @property
    def sqlalchemy_url(self) -> str:
        """The database's URL with the driver that is installed."""
        scheme, separator, rest = self.database_url.partition("://")
        return f"{'postgresql+psycopg' if scheme in {'postgres', 'postgresql'} else scheme}{separator}{rest}"


def _without_user(address: str) -> tuple[str, str, str]:
    """An http address as it may be shown, its user and its password; any other address as it is."""
    scheme, separator, rest = address.partition("://")
    place, slash, path = rest.partition("/")
    userinfo, at, host = place.rpartition("@")
    if not at or scheme not in {"http", "https"}:
        return address, "", ""
    user, _, password = userinfo.partition(":")
    return f"{scheme}{separator}{host}{slash}{path}", unquote(user), unquote(password)
