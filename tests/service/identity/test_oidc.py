"""ID tokens against a real provider process: which are accepted, and what happens while it fails."""

from __future__ import annotations

import base64
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.contract.errors import UnauthorizedError, UnavailableError
from service.identity import oidc
from service.identity.oidc import KEEP_KEYS_S, READ_AGAIN_S, REMEMBER_FAILURE_S, Identity, OidcProvider
from service.openid import MAX_BYTES
from tests.support.clock import Clock
from tests.support.openid_provider import CLIENT, OpenIdProvider, openid_provider

KEYS = "/keys"
DISCOVERY = "/.well-known/openid-configuration"


def service_of(provider: OpenIdProvider, **options: Any) -> OidcProvider:
    return OidcProvider(provider.issuer, CLIENT, **options)


def test_a_valid_token_says_who_signs_in(provider: OpenIdProvider) -> None:
    alice = Identity(provider.issuer, "subject-1", "alice@example.com", "Alice Example", "alice")
    service = service_of(provider)
    assert service.check(provider.id_token()) == alice
    assert service.check(provider.id_token(nonce="n"), "n") == alice
    assert service.check(provider.id_token(aud=["other", CLIENT], azp=CLIENT)) == alice
    assert service.check(provider.id_token(kid=None)) == alice, "there is one key only"
    assert provider.count(KEYS) == 1, "the keys are kept"


def test_an_email_counts_only_if_it_is_verified(provider: OpenIdProvider) -> None:
    service = service_of(provider)
    for claim in (False, None, "true", 1):
        found = service.check(provider.id_token(email_verified=claim, preferred_username=None))
        assert (found.email, found.login) == ("", "subject-1")
    assert service.check(provider.id_token(preferred_username=None)).login == "alice"


def test_names_of_a_provider_fit_one_line_and_their_columns(provider: OpenIdProvider) -> None:
    found = service_of(provider).check(
        provider.id_token(name="Ada\ud800\nroot\x1b[31m" + "x" * 200, email="a\tb" + "c" * 300)
    )
    assert found.name.startswith("Ada  root [31mxxx")
    assert (len(found.name), len(found.email)) == (128, 254)


NOW = int(time.time())
REFUSED = {
    "another issuer": ({"iss": "https://evil.example"}, "iss of the ID token must be http://127.0.0.1"),
    "an issuer with a slash more": ({"iss": "{issuer}/"}, "iss of the ID token"),
    "another audience": ({"aud": "other"}, "aud of the ID token must be rung"),
    "no audience": ({"aud": None}, "must have the claims aud"),
    "several audiences and no party": ({"aud": ["other", CLIENT]}, "azp of the ID token must be rung"),
    "another party": ({"azp": "other"}, "azp of the ID token must be rung"),
    "an old token": ({"exp": NOW - 120}, "has expired"),
    "no expiry": ({"exp": None}, "must have the claims exp"),
    "an expiry that is no number": ({"exp": "later"}, "exp of the ID token"),
    "a token of the future": ({"iat": NOW + 3600, "exp": NOW + 7200}, "iat of the ID token"),
    "a token that is not valid yet": ({"nbf": NOW + 3600}, "nbf of the ID token"),
    "a token that was kept": ({"iat": NOW - 900}, "must be used within 600 s"),
    "no subject": ({"sub": None}, "must have the claims sub"),
    "an empty subject": ({"sub": ""}, "sub of the ID token must be a text"),
    "a subject with NUL": ({"sub": "a\0b"}, "sub of the ID token must be a text of 1 to 255 characters without NUL"),
    "a subject with half a character": (
        {"sub": "a\ud800"},
        "sub of the ID token must be a text of 1 to 255 characters",
    ),
    "a long subject": ({"sub": "a" * 256}, "sub of the ID token must be a text of 1 to 255 characters"),
    "a nonce that nobody sent": ({"nonce": "n"}, "the nonce of this sign-in"),
    "no signature": ({"sign": "none"}, "must be signed with RS256"),
    "a signature with the public key as secret": ({"sign": "symmetric"}, "must be signed with RS256"),
    "a key of the same name that is not the provider's": ({"sign": "foreign"}, "signature of the ID token"),
    "a key that the provider does not list": ({"kid": "unknown"}, "a key that the provider does not list"),
    "a symmetric key that the provider lists": ({"kid": "symmetric"}, "a key that the provider does not list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_token_is_refused_with_the_reason(provider: OpenIdProvider, case: str) -> None:
    claims, reason = REFUSED[case]
    given = {
        name: str(value).format(issuer=provider.issuer) if name == "iss" else value for name, value in claims.items()
    }
    with pytest.raises(UnauthorizedError, match=reason):
        service_of(provider).check(provider.id_token(**given))


@pytest.mark.parametrize("subject", [" subject-1", "subject-1\t", "Subject-1", " ", "s" * 255])
def test_a_subject_is_taken_exactly(provider: OpenIdProvider, subject: str) -> None:
    assert service_of(provider).check(provider.id_token(sub=subject)).subject == subject


def test_a_nonce_must_come_back(provider: OpenIdProvider) -> None:
    for given in ({}, {"nonce": "another"}):
        with pytest.raises(UnauthorizedError, match="nonce"):
            service_of(provider).check(provider.id_token(**given), "mine")


def changed(token: str, part: int, text: bytes) -> str:
    parts = token.split(".")
    parts[part] = base64.urlsafe_b64encode(text).rstrip(b"=").decode()
    return ".".join(parts)


def test_what_is_no_token_is_refused(provider: OpenIdProvider) -> None:
    service, good = service_of(provider), provider.id_token()
    admin = json.dumps({"iss": provider.issuer, "aud": CLIENT, "sub": "admin", "exp": NOW + 300, "iat": NOW})
    hostile = [
        "", "a", "a.b", "..", "a.b.c.d", "é.é.é", "x" * 20_000, good[:-1] + "\n", good + " ",
        changed(good, 0, b"[]"), changed(good, 0, b"{}"), changed(good, 0, b'{"alg": ["RS256"]}'),
        changed(good, 0, b'{"alg": "RS256", "kid": 7}'), changed(good, 0, b'{"alg": "RS256", "crit": ["x"], "x": 1}'),
        changed(good, 0, b"[" * 5000), changed(good, 1, admin.encode()), changed(good, 2, b""),
    ]  # fmt: skip
    for token in hostile:
        with pytest.raises(UnauthorizedError):
            service.check(token)


def test_clocks_may_differ_by_a_minute(provider: OpenIdProvider) -> None:
    now = time.time()
    for skew in (-50, 50):
        service_of(provider, clock=lambda skew=skew: now + skew).check(provider.id_token(exp=int(now) + 5))
    for skew in (-90, 90):
        with pytest.raises(UnauthorizedError):
            service_of(provider, clock=lambda skew=skew: now + skew).check(provider.id_token(exp=int(now) + 5))


def test_a_new_key_is_found_and_made_up_keys_cost_the_provider_nothing() -> None:
    with openid_provider() as provider:
        clock = Clock()
        service = service_of(provider, monotonic=clock.monotonic)
        service.check(provider.id_token())
        provider.rotate("second")
        clock.sleep(READ_AGAIN_S)
        service.check(provider.id_token())
        service.check(provider.id_token(sign="oldest"))
        assert provider.count(KEYS) == 2
        for number in range(10):
            with pytest.raises(UnauthorizedError):
                service.check(provider.id_token(kid=f"made-up-{number}"))
        assert provider.count(KEYS) == 2
        clock.sleep(KEEP_KEYS_S)
        service.check(provider.id_token())
        assert provider.count(KEYS) == 3
        with pytest.raises(UnauthorizedError, match="does not list"):
            service.check(provider.id_token(kid=None))


FAILURES = {
    "an error": {"status": 500},
    "a redirect": {"status": 302},
    "more than anybody publishes": {"bytes": MAX_BYTES + 1},
    "no JSON": {"bytes": 10},
    "an answer that comes too late": {"delay_s": 1},
}


@pytest.mark.parametrize("path", [DISCOVERY, KEYS])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_provider_that_fails_is_unavailable_and_is_asked_again_later(
    provider: OpenIdProvider, path: str, failure: str
) -> None:
    clock = Clock()
    service, token = service_of(provider, timeout_s=0.5, monotonic=clock.monotonic), provider.id_token()
    provider.misbehave(path, **FAILURES[failure])
    asked = provider.count(path)
    for _ in range(3):
        with pytest.raises(UnavailableError, match=f"the OpenID provider {provider.issuer} cannot be used"):
            service.check(token)
    assert provider.count(path) == asked + 1, "a failure is remembered for some seconds"
    provider.behave()
    clock.sleep(REMEMBER_FAILURE_S)
    assert service.check(provider.id_token()).login == "alice"


METADATA = {
    "another issuer": ({"issuer": "https://evil.example"}, "must name this issuer"),
    "keys without encryption": ({"jwks_uri": "http://192.0.2.1/keys"}, "jwks_uri in .* must be an https URL"),
    "keys in a file": ({"jwks_uri": "file:///etc/passwd"}, "jwks_uri in .* must be an https URL"),
    "no keys": ({"jwks_uri": None}, "jwks_uri in"),
}


@pytest.mark.parametrize("case", METADATA)
def test_what_a_provider_says_of_itself_must_fit(provider: OpenIdProvider, case: str) -> None:
    fields, reason = METADATA[case]
    token = provider.id_token()
    provider.misbehave(DISCOVERY, fields=fields)
    with pytest.raises(UnavailableError, match=reason):
        service_of(provider).check(token)


def test_a_provider_that_is_down_is_unavailable() -> None:
    with openid_provider() as provider:
        token = provider.id_token()
        provider.stop()
        with pytest.raises(UnavailableError, match="cannot be used"):
            service_of(provider).check(token)


@pytest.mark.parametrize("issuer", ["http://192.0.2.1", "http://example.com", "ftp://127.0.0.1", "", "https://"])
def test_an_issuer_must_be_encrypted_or_on_this_machine(issuer: str) -> None:
    with pytest.raises(ValueError, match="must be an https URL"):
        OidcProvider(issuer, CLIENT)


def test_many_people_sign_in_at_once_and_the_keys_are_read_once(provider: OpenIdProvider) -> None:
    before = provider.count(KEYS)
    service, token = service_of(provider), provider.id_token()
    with ThreadPoolExecutor(8) as threads:
        assert {found.login for found in threads.map(service.check, [token] * 16)} == {"alice"}
    assert provider.count(KEYS) == before + 1


def test_one_thread_waits_for_a_provider_that_hangs_and_nobody_whose_key_is_known(
    provider: OpenIdProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "WAIT_S", 0.01)
    clock = Clock()
    service = service_of(provider, monotonic=clock.monotonic)
    known, made_up = provider.id_token(), [provider.id_token(kid=f"made-up-{number}") for number in range(4)]
    service.check(known)
    clock.sleep(READ_AGAIN_S)
    asked, answers, read = threading.Event(), threading.Event(), service._provider.key_documents

    def hang(*arguments: Any) -> Any:
        asked.set()
        assert answers.wait(60)
        return read(*arguments)

    monkeypatch.setattr(service._provider, "key_documents", hang)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(service.check, made_up[0])
        assert asked.wait(60)
        assert service.check(known).login == "alice"
        for token in made_up[1:]:
            with pytest.raises(UnavailableError, match="its keys are being read"):
                service.check(token)
        answers.set()
        with pytest.raises(UnauthorizedError, match="does not list"):
            first.result(60)
