"""OIDC: checks the ID tokens of the OpenID provider that people sign in with.

Owns which tokens are accepted (OpenID Connect Core 1.0, section 3.1.3.7, and stricter where this says so) and for how
long the provider's keys are kept. It must not know users, nor Rung's own tokens.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from joserfc import jwt
from joserfc.errors import ExpiredTokenError, InvalidClaimError, JoseError, MissingClaimError, UnsupportedAlgorithmError
from joserfc.jwk import Key, import_key

from search_spaces.parsing import NOT_STORABLE
from search_spaces.problems import shorten
from service.contract.errors import UnauthorizedError
from service.identity.names import clean_name
from service.openid import TIMEOUT_S, Metadata, Provider, ProviderUnavailableError
from service.store.accounts import EMAIL_CHARACTERS, NAME_CHARACTERS, SUBJECT_CHARACTERS

#: The kind of key of each algorithm that is accepted. None is symmetric: the client's secret signs nothing.
KEY_TYPES = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    **dict.fromkeys(("EdDSA", "Ed25519"), "OKP"),
}
#: Characters of the modulus of an RSA key of 2048 bits, in base64. Shorter keys can be broken.
MIN_RSA_MODULUS = 342
#: Seconds by which the clocks of the provider and of the service may differ.
LEEWAY_S = 60
#: Seconds within which an ID token must be used: an old one may have been found somewhere.
MAX_AGE_S = 600
#: Seconds for which the provider's keys are kept. A token of an unknown key has them read again, but not more often
#: than the second number says, so that made-up tokens cost the provider nothing. A failure is remembered for the third,
#: so that people who sign in meanwhile do not wait for it one after another.
KEEP_KEYS_S, READ_AGAIN_S, REMEMBER_FAILURE_S = 3600.0, 30.0, 5.0
WAIT_S = 1.0
#: Tokens with many groups have about 10 kB.
MAX_TOKEN_CHARACTERS = 16_384
JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


class SignInRefusedError(UnauthorizedError):
    """The ID token cannot be accepted. The message says why."""


@dataclass(frozen=True)
class Identity:
    """A person as the provider knows them. `issuer` and `subject` together never change and are never reused; `login`
    is a proposal. `email` is empty unless the provider has verified it."""

    issuer: str
    subject: str
    email: str
    name: str
    login: str


@dataclass(frozen=True)
class _Published:
    """What the provider published at a time of the monotonic clock."""

    metadata: Metadata
    keys: tuple[Key, ...]
    at: float


class OidcProvider:
    """The provider that one service trusts. Its methods may be called by many threads."""

    def __init__(
        self,
        issuer: str,
        client_id: str,
        *,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Sends nothing. Raises ValueError for an issuer that is neither https nor on this machine."""
        self._provider = Provider(issuer, timeout_s)
        self._client_id = client_id
        self._clock, self._monotonic = clock, monotonic
        self._lock = threading.Lock()
        self._published: _Published | None = None
        self._failure: tuple[ProviderUnavailableError, float] | None = None

    def check(self, id_token: str, nonce: str | None = None) -> Identity:
        """Who the token is about.

        `nonce` is the one that the sign-in began with, if it had one. Raises SignInRefusedError, and
        ProviderUnavailableError while the provider's keys cannot be read.
        """
        if len(id_token) > MAX_TOKEN_CHARACTERS or not JWT.fullmatch(id_token):
            raise SignInRefusedError(
                f"the ID token must be a signed JWT of at most {MAX_TOKEN_CHARACTERS} characters "
                f"(got {len(id_token)} characters)"
            )
        published = self._read(KEEP_KEYS_S)
        try:
            claims = self._claims(id_token, published)
        except _UnknownKeyError:
            published = self._read(READ_AGAIN_S)
            try:
                claims = self._claims(id_token, published)
            except _UnknownKeyError:
                raise SignInRefusedError("the ID token is signed with a key that the provider does not list") from None
        self._check_claims(claims, nonce)
        return _identity(claims)

    def _claims(self, id_token: str, published: _Published) -> dict[str, Any]:
        """The claims of a token with a valid signature. Raises SignInRefusedError and _UnknownKeyError."""
        offered = published.metadata.id_token_signing_alg_values_supported
        algorithms = [name for name in KEY_TYPES if name in offered]
        try:
            claims = jwt.decode(id_token, lambda token: _key(token.headers(), published.keys), algorithms).claims
        except UnsupportedAlgorithmError:
            raise SignInRefusedError(f"the ID token must be signed with {', '.join(algorithms) or 'RS256'}") from None
        except _UnknownKeyError:
            raise
        except (JoseError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise SignInRefusedError(f"the signature of the ID token is not valid ({type(error).__name__})") from None
        if not isinstance(claims, dict):
            raise SignInRefusedError("the ID token must hold a JSON object")
        return claims

    def _check_claims(self, claims: dict[str, Any], nonce: str | None) -> None:
        now = int(self._clock())
        rules = jwt.JWTClaimsRegistry(
            now=now,
            leeway=LEEWAY_S,
            iss={"essential": True, "value": self._provider.issuer},
            aud={"essential": True, "value": self._client_id},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
        )
        try:
            rules.validate(claims)
        except ExpiredTokenError:
            raise SignInRefusedError("the ID token has expired; sign in again") from None
        except MissingClaimError as error:
            raise SignInRefusedError(f"the ID token must have the claims {error.claim}") from None
        except InvalidClaimError as error:
            raise SignInRefusedError(self._wrong(error.claim, claims)) from None
        if claims["iat"] < now - MAX_AGE_S - LEEWAY_S:
            raise SignInRefusedError(f"the ID token must be used within {MAX_AGE_S} s; sign in again")
        audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        if claims.get("azp", self._client_id if len(audiences) == 1 else None) != self._client_id:
            raise SignInRefusedError(self._wrong("azp", claims))
        if claims.get("nonce") != nonce:
            raise SignInRefusedError("the ID token must have the nonce of this sign-in; sign in again")

    def _wrong(self, claim: str, claims: dict[str, Any]) -> str:
        wanted = {
            "iss": self._provider.issuer,
            "aud": self._client_id,
            "azp": self._client_id,
            "sub": "a text",
            "exp": "a time",
        }.get(claim, "a time that is not in the future")
        return f"{claim} of the ID token must be {wanted} (got {shorten(claims.get(claim))})"

    def _read(self, max_age_s: float) -> _Published:
        """What the provider published in the last `max_age_s`, read again if it is older. One thread reads; others wait
        for WAIT_S at most, so that a provider that hangs does not keep all threads of the service. Raises
        ProviderUnavailableError."""
        if (known := self._known(max_age_s)) is not None:
            return known
        if not self._lock.acquire(timeout=WAIT_S):
            why = "its keys are being read, which takes long; try again in a few seconds"
            raise ProviderUnavailableError(f"the OpenID provider {self._provider.issuer} cannot be used: {why}")
        try:
            if (known := self._known(max_age_s)) is not None:
                return known
            now = self._monotonic()
            if self._failure is not None and now - self._failure[1] < REMEMBER_FAILURE_S:
                raise ProviderUnavailableError(self._failure[0].detail)
            try:
                metadata = self._provider.metadata()
                imported = map(_import, self._provider.key_documents(metadata))
                keys = tuple(key for key in imported if key is not None)
            except ProviderUnavailableError as error:
                self._failure = (error, self._monotonic())
                raise
            self._published, self._failure = _Published(metadata, keys, self._monotonic()), None
            return self._published
        finally:
            self._lock.release()

    def _known(self, max_age_s: float) -> _Published | None:
        known = self._published
        return known if known is not None and self._monotonic() - known.at < max_age_s else None


class _UnknownKeyError(Exception):
    """The provider did not publish the key of a token when its keys were read."""


def _key(headers: dict[str, Any], keys: tuple[Key, ...]) -> Key:
    """The key that a token names, or the only one of its kind. Raises _UnknownKeyError."""
    kid = headers.get("kid")
    kind = KEY_TYPES.get(str(headers.get("alg")))
    fitting = [key for key in keys if key.key_type == kind and kid in (None, key.kid)]
    if not fitting or (kid is None and len(fitting) > 1):
        raise _UnknownKeyError
    return fitting[0]


def _import(document: dict[str, Any]) -> Key | None:
    """A published key that can check signatures; None for keys of other kinds or for other uses."""
    if document.get("kty") not in KEY_TYPES.values() or document.get("use", "sig") != "sig":
        return None
    if document["kty"] == "RSA" and len(str(document.get("n", "")).rstrip("=")) < MIN_RSA_MODULUS:
        return None
    try:
        return import_key(document)
    except (JoseError, ValueError, TypeError, LookupError):
        return None


def _identity(claims: dict[str, Any]) -> Identity:
    def text(name: str) -> str:
        value = claims.get(name)
        return NOT_STORABLE.sub(" ", value).strip() if isinstance(value, str) else ""

    subject = claims["sub"]  # compared exactly: another space is another person
    if not isinstance(subject, str) or not 1 <= len(subject) <= SUBJECT_CHARACTERS or NOT_STORABLE.search(subject):
        rule = f"must be a text of 1 to {SUBJECT_CHARACTERS} characters without NUL or lone surrogates"
        raise SignInRefusedError(f"sub of the ID token {rule} (got {shorten(subject)})")
    email = clean_name(text("email"), EMAIL_CHARACTERS) if claims.get("email_verified") is True else ""
    login = text("preferred_username") or email.partition("@")[0] or subject
    name = clean_name(text("name"), NAME_CHARACTERS)
    return Identity(str(claims["iss"]), subject, email, name, login)
