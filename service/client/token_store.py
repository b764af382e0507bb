"""Token store: the tokens of a person on this machine, each with the origin that it was issued by.

A token is found only under its own origin: scheme, host and port. It must not know how a token is obtained, nor how it
is sent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from service.client.private_files import PrivateFileError, locked_folder, read_private, write_private

FORMAT = 1


@dataclass(frozen=True)
class StoredToken:
    """A token and what the service said about it when it was issued. `expires_at` is RFC 3339, or empty."""

    token: str
    id: str = ""
    login: str = ""
    expires_at: str = ""


class TokenStore:
    """The file `tokens.json`. Every method raises PrivateFileError where the file cannot be used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / "tokens.json"

    def find(self, url: str) -> StoredToken | None:
        """The token for the origin of a URL."""
        return self._read().get(origin_of(url))

    def put(self, url: str, token: StoredToken) -> None:
        """Keep the token of an origin, in place of the one before."""
        with locked_folder(self._folder):
            self._write({**self._read(), origin_of(url): token})

    def remove(self, url: str) -> None:
        """Forget the token of an origin."""
        with locked_folder(self._folder):
            self._write({origin: token for origin, token in self._read().items() if origin != origin_of(url)})

    def _read(self) -> dict[str, StoredToken]:
        text = read_private(self.path)
        if text is None:
            return {}
        try:
            document = json.loads(text)
            if document["version"] != FORMAT:
                raise PrivateFileError(f"{self.path} must have version {FORMAT} (got {document['version']!r})")
            known = StoredToken.__dataclass_fields__
            return {
                str(origin): StoredToken(**{name: str(value) for name, value in fields.items() if name in known})
                for origin, fields in document["origins"].items()
            }
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise PrivateFileError(f"{self.path} is damaged; delete it and run `rung login` again") from None

    def _write(self, tokens: Mapping[str, StoredToken]) -> None:
        origins = {origin: asdict(token) for origin, token in sorted(tokens.items())}
        write_private(self.path, json.dumps({"version": FORMAT, "origins": origins}, indent=2) + "\n")


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL, in one form for each. Raises httpx.InvalidURL."""
    parsed = httpx.URL(url)
    host = parsed.raw_host.decode("ascii").lower().rstrip(".")
    host = f"[{host}]" if ":" in host else host
    return f"{parsed.scheme}://{host}" + (f":{parsed.port}" if parsed.port is not None else "")


def config_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder of Rung's settings of this person; None for a user without a home folder."""
    given = environment.get("XDG_CONFIG_HOME", "")
    base = given if os.path.isabs(given) else os.path.join(os.path.expanduser("~"), ".config")
    return Path(base) / "rung" if os.path.isabs(base) else None
