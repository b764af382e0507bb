"""OpenID: what a provider publishes about itself, and requests to it, within limits.

The service checks ID tokens with it, the command line obtains them. Owns which addresses of a provider are used. It
must not know tokens, nor who signs in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
from pydantic import AfterValidator, BaseModel, ValidationError

from search_spaces.problems import shorten
from search_spaces.request_limits import AnswerTooLargeError, RequestLimits
from service.contract.errors import UnavailableError
from service.http_client import EnvironmentUnusableError, fetch, is_secure, open_client

#: The documents of large providers have 20 kB.
MAX_BYTES = 500_000
#: A person waits for it.
TIMEOUT_S = 10.0
WELL_KNOWN = "/.well-known/openid-configuration"
INSECURE = "must be an https URL, or an http URL of this machine"


class ProviderUnavailableError(UnavailableError):
    """The OpenID provider does not answer, or its answer cannot be used."""


def _check_secure(url: str) -> str:
    if not is_secure(url):
        raise ValueError(f"{INSECURE} (got {shorten(url)})")
    return url


SecureUrl = Annotated[str, AfterValidator(_check_secure)]


class Metadata(BaseModel):
    """What a provider publishes about itself (OpenID Connect Discovery 1.0, section 3; RFC 8628, section 4)."""

    issuer: SecureUrl
    jwks_uri: SecureUrl
    authorization_endpoint: SecureUrl
    token_endpoint: SecureUrl
    device_authorization_endpoint: SecureUrl | None = None
    id_token_signing_alg_values_supported: list[str] = ["RS256"]


@dataclass(frozen=True)
class Answer:
    """The status and the JSON object of an answer."""

    status: int
    document: dict[str, Any]


class Provider:
    """An OpenID provider, by its issuer. Every method raises ProviderUnavailableError."""

    def __init__(self, issuer: str, timeout_s: float = TIMEOUT_S) -> None:
        """Raises ValueError for an issuer that is neither https nor on this machine."""
        self.issuer = _check_secure(issuer)
        self._limits = RequestLimits(timeout_s, MAX_BYTES)

    def metadata(self) -> Metadata:
        """What the provider publishes now."""
        url = self.issuer.rstrip("/") + WELL_KNOWN
        document = self._ok(self.request("GET", url), url)
        try:
            found = Metadata.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise self._unusable(f"{place} in {url}: {first['msg'].removeprefix('Value error, ')}") from None
        if found.issuer != self.issuer:
            raise self._unusable(f"{url} must name this issuer (got {shorten(found.issuer)})")
        return found

    def key_documents(self, metadata: Metadata) -> list[dict[str, Any]]:
        """The keys that the provider publishes, as JSON Web Keys."""
        keys = self._ok(self.request("GET", metadata.jwks_uri), metadata.jwks_uri).get("keys")
        if not isinstance(keys, list):
            raise self._unusable(f"{metadata.jwks_uri} must have a list of keys")
        return [key for key in keys if isinstance(key, dict)]

    def request(self, method: str, url: str, form: Mapping[str, str] | None = None) -> Answer:
        """The answer to one request, of any status. A redirect is not followed: it would lead to another server."""
        try:
            with open_client(url, headers={"Accept": "application/json"}, timeout=self._limits.timeout_s) as client:
                response = fetch(client, self._limits, method, url, data=None if form is None else dict(form))
        except EnvironmentUnusableError as error:
            raise self._unusable(str(error)) from None
        except AnswerTooLargeError as error:
            raise self._unusable(f"{url}: {error}") from None
        except (httpx.TimeoutException, TimeoutError):
            raise self._unusable(f"{url} did not answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unusable(f"{url}: {error or type(error).__name__}") from None
        try:
            document = response.json()
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise self._unusable(f"{url} answered {response.status_code}, and no JSON object")
        return Answer(response.status_code, document)

    def _ok(self, answer: Answer, url: str) -> dict[str, Any]:
        if answer.status != 200:
            raise self._unusable(f"{url} answered {answer.status}")
        return answer.document

    def _unusable(self, why: str) -> ProviderUnavailableError:
        return ProviderUnavailableError(f"the OpenID provider {self.issuer} cannot be used: {why}")
