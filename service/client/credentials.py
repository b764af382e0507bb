"""Credentials: which token belongs to which service.

A token goes only to the origin that it was issued for: a URL that was typed wrong must not receive it. It must not know
how a token is obtained.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import httpx

from service.client.local_stack import home_folder, owner_token, running_stack
from service.client.token_store import TokenStore, config_folder, origin_of

Source = Literal["argument", "RUNG_TOKEN", "login", "rung up", "none"]


@dataclass(frozen=True)
class Credential:
    """A token and where it was found. `withheld_for` is the origin that RUNG_TOKEN belongs to, if it is another."""

    token: str = ""
    source: Source = "none"
    withheld_for: str = ""


def find_credential(url: str, environment: Mapping[str, str] = os.environ) -> Credential:
    """The token for a URL: RUNG_TOKEN if the URL has the origin of RUNG_URL (or the default URL), else the one of
    `rung login`, else that of the running `rung up` of this person.

    Raises PrivateFileError if others can read the file that has it.
    """
    home = home_folder(environment)
    withheld_for = ""
    try:
        if given := environment.get("RUNG_TOKEN"):
            own = origin_of(environment.get("RUNG_URL") or default_url(environment))
            if own == origin_of(url):
                return Credential(given, "RUNG_TOKEN")
            withheld_for = own
        if (store := open_store(environment)) is not None and (stored := store.find(url)) is not None:
            return Credential(stored.token, "login", withheld_for)
        if token := owner_token(url, home):
            return Credential(token, "rung up", withheld_for)
    except httpx.InvalidURL:
        return Credential()  # the transport reports it
    return Credential(withheld_for=withheld_for)


def default_url(environment: Mapping[str, str] = os.environ) -> str:
    """The URL of the running `rung up` of this person, otherwise that of a service on this machine."""
    service = running_stack(home_folder(environment)).get("service")
    if isinstance(service, str) and service:
        return service
    from service.settings import Settings

    host, port = (Settings.model_fields[name].default for name in ("host", "port"))
    return f"http://{host}:{port}"


def open_store(environment: Mapping[str, str] = os.environ) -> TokenStore | None:
    """The tokens of this person; None for a user without a home folder."""
    folder = config_folder(environment)
    return None if folder is None else TokenStore(folder)
