"""The values of settings: types and checks of those that can be checked by themselves.

It must not know which settings there are; what depends on other settings is in `settings`.
"""

from __future__ import annotations

import base64
import os
import pkgutil
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from search_spaces.storage.addresses import bucket_of
from search_spaces.storage.base import check_root
from service import node_kinds
from service.addresses import check_host, is_loopback
from service.webhook_targets import AllowedTargets

#: The folder of the modules that `RUNG_LAUNCHER` names.
LAUNCHERS = Path(__file__).parent / "adapters" / "launchers"

#: 30 years: a time that is added to the present must not leave the calendar.
MAX_SECONDS, MAX_DAYS = 1e9, 11_000
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]
Bytes = Annotated[int, Field(ge=1024)]


def default_home() -> Path:
    """The home folder of a user who names none. Raises ValueError for one who has no home folder."""
    return expand("~/.rung")


def expand(path: str) -> Path:
    """The path, with a user's home folder for `~`. Raises ValueError where there is none.

    In containers, programs run as users whom the system does not know.
    """
    if not path.startswith("~"):
        return Path(path)
    found = os.path.expanduser(path)
    if found.startswith("~") or not os.environ.get("HOME", "any"):
        raise ValueError(f"there is no home folder for {path}: set HOME, or give RUNG_HOME and all paths without ~")
    return Path(found)


def _check_launcher(name: str) -> str:
    known = sorted(module.name for module in pkgutil.iter_modules([str(LAUNCHERS)]))
    if name not in known:
        raise ValueError(f"must be one of {', '.join(known)} (got {name!r})")
    return name


def _check_mlflow_is_a_server(address: str) -> str:
    """The service reads MLflow over HTTP; it could not read a database or a folder that drivers write."""
    if not address.startswith(("http://", "https://")):
        scheme = address.partition(":")[0]
        raise ValueError(
            f"must be the http:// or https:// URL of an MLflow server (got {scheme}:...); "
            "run `mlflow server --backend-store-uri ...` and use its URL"
        )
    check_host(address)
    return address


def _check_issuer(issuer: str) -> str:
    """What the provider says must not be changed on its way."""
    split = urlsplit(issuer)
    is_local = split.scheme == "http" and is_loopback(split.hostname or "")
    if issuer and split.scheme != "https" and not is_local:
        raise ValueError("must begin with https://, or with http:// and an address of this machine")
    if issuer:
        check_host(issuer)
    return issuer


def _check_keys(keys: str) -> str:
    for key in filter(None, map(str.strip, keys.split(","))):
        try:
            size = len(base64.b64decode(key, altchars="-_", validate=True))
        except ValueError:
            size = 0
        if size != 32:
            raise ValueError("must be 32 bytes in URL-safe base64, or several such keys, separated by commas")
    return keys


def _check_targets(text: str) -> str:
    AllowedTargets.parse(text)
    return text


def split_addresses(text: str) -> list[str]:
    """The addresses in a list that is separated by commas. Raises ValueError for one that is not that of a bucket."""

    def checked(address: str) -> str:
        try:
            return bucket_of(address).address()
        except ValueError as error:
            raise ValueError(f"{error} (got {address!r})") from None

    return [checked(address) for address in filter(None, map(str.strip, text.split(",")))]


def _check_addresses(text: str) -> str:
    split_addresses(text)
    return text


def _make_absolute(folder: Path) -> Path:
    """Drivers and trials have other working directories than the service."""
    return expand(str(folder)).absolute()


def _check_labels(labels: str) -> str:
    for label in filter(None, map(str.strip, labels.split(","))):
        name, _, value = label.partition("=")
        if not name.strip() or not value.strip():
            raise ValueError(f"must be labels such as role=driver, separated by commas (got {label!r})")
    return labels


def _check_kinds(text: str) -> str:
    node_kinds.parse(text)
    return text


LauncherName = Annotated[str, AfterValidator(_check_launcher)]
MlflowUrl = Annotated[str, AfterValidator(_check_mlflow_is_a_server)]
IssuerUrl = Annotated[str, AfterValidator(_check_issuer)]
Keys = Annotated[str, AfterValidator(_check_keys)]
Targets = Annotated[str, AfterValidator(_check_targets)]
StorageRoot = Annotated[str, AfterValidator(check_root)]
Folder = Annotated[Path, AfterValidator(_make_absolute)]
Addresses = Annotated[str, AfterValidator(_check_addresses)]
NodeLabels = Annotated[str, AfterValidator(_check_labels)]
NodeKinds = Annotated[str, AfterValidator(_check_kinds)]
