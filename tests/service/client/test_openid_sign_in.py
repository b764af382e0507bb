"""Signing in at a real OpenID provider process: with the browser of this machine, and on another device."""

from __future__ import annotations

import threading
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from service.client.openid_sign_in import (
    DevicePrompt,
    Obtained,
    SignInFailedError,
    code_challenge,
    sign_in_on_another_device,
    sign_in_with_browser,
)
from service.identity.oidc import OidcProvider
from service.openid import Provider, ProviderUnavailableError
from tests.support.clock import Clock
from tests.support.openid_provider import CLIENT, OpenIdProvider

SCOPES = ("openid", "profile", "email")
DEVICE = "/device_authorization"


def browse(url: str) -> None:
    """A browser that follows the provider to the page of the command."""
    threading.Thread(target=httpx.get, args=(url,), kwargs={"follow_redirects": True, "trust_env": False}).start()


def with_browser(provider: OpenIdProvider, browser: Callable[[str], object] = browse, wait_s: float = 20) -> Obtained:
    return sign_in_with_browser(Provider(provider.issuer), CLIENT, SCOPES, browser, wait_s=wait_s)


def on_another_device(
    provider: OpenIdProvider, clock: Clock, when: Callable[[int], object], prompts: list[DevicePrompt] | None = None
) -> Obtained:
    """Sign in with the device grant; `when` is called before each question with its number."""
    shown: list[DevicePrompt] = [] if prompts is None else prompts
    asked = iter(range(10_000))

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        when(next(asked))

    return sign_in_on_another_device(
        Provider(provider.issuer), CLIENT, SCOPES, shown.append, sleep=sleep, clock=clock.monotonic
    )


def test_the_challenge_is_that_of_the_standard() -> None:
    """RFC 7636, appendix B."""
    assert (
        code_challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    )


def test_the_service_accepts_what_a_browser_obtains(provider: OpenIdProvider) -> None:
    obtained = with_browser(provider)
    assert obtained.nonce is not None
    service = OidcProvider(provider.issuer, CLIENT)
    assert service.check(obtained.id_token, obtained.nonce).login == "alice"
    assert with_browser(provider).nonce != obtained.nonce


def test_another_page_of_this_machine_cannot_answer(provider: OpenIdProvider) -> None:
    """A request with another state, or for another address, is answered 404 and changes nothing."""
    answers: list[int] = []

    def attacked(url: str) -> None:
        target = parse_qs(urlsplit(url).query)["redirect_uri"][0]
        addresses = (f"{target}?code=evil&state=guess", f"{target}?code=evil", target.replace("/callback", "/"))
        answers.extend(httpx.get(address, trust_env=False).status_code for address in addresses)
        browse(url)

    assert OidcProvider(provider.issuer, CLIENT).check(*_pair(with_browser(provider, attacked))).login == "alice"
    assert answers == [404, 404, 404]


def _pair(obtained: Obtained) -> tuple[str, str | None]:
    return obtained.id_token, obtained.nonce


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"code": None, "error": "access_denied"}, "the sign-in was declined"),
        ({"code": None}, "refused the sign-in"),
        ({"iss": "https://evil.example"}, "the answer must come from"),
        ({"code": "made-up"}, "refused the sign-in \\(invalid_grant"),
    ],
)
def test_an_answer_that_cannot_be_used_ends_the_sign_in(
    provider: OpenIdProvider, answer: dict[str, str | None], reason: str
) -> None:
    provider.misbehave("answer", **answer)
    with pytest.raises(SignInFailedError, match=reason):
        with_browser(provider)


def test_a_browser_that_does_nothing_is_not_waited_for_for_ever(provider: OpenIdProvider) -> None:
    with pytest.raises(SignInFailedError, match="nobody signed in within 0 s"):
        with_browser(provider, lambda url: None, wait_s=0.1)


def test_a_person_signs_in_on_another_device(provider: OpenIdProvider, clock: Clock) -> None:
    prompts: list[DevicePrompt] = []
    obtained = on_another_device(provider, clock, lambda n: n == 2 and provider.decide("approved"), prompts)
    page = f"{provider.issuer}/device"
    assert prompts == [DevicePrompt(page, "WDJB-MJHT", f"{page}?user_code=WDJB-MJHT")]
    assert clock.seconds == 103, "it asks once in the interval that the provider states"
    assert OidcProvider(provider.issuer, CLIENT).check(obtained.id_token).login == "alice"


def test_a_provider_that_is_busy_is_asked_less_often(provider: OpenIdProvider, clock: Clock) -> None:
    def when(number: int) -> None:
        provider.decide(
            {1: "slow_down", 2: "slow_down"}.get(number, "approved" if number == 4 else "authorization_pending")
        )

    on_another_device(provider, clock, when)
    assert clock.seconds == 100 + 1 + 1 + 6 + 11 + 11


def test_a_short_outage_does_not_end_the_sign_in(provider: OpenIdProvider, clock: Clock) -> None:
    def when(number: int) -> None:
        if number < 2:
            provider.misbehave("/token", bytes=5)
        else:
            provider.behave()
            provider.decide("approved")

    on_another_device(provider, clock, when)
    assert clock.seconds == 100 + 1 + 2 + 4


@pytest.mark.parametrize(
    ("decision", "reason"),
    [
        ("access_denied", "the sign-in was declined"),
        ("expired_token", "the code has expired"),
        ("invalid_client", "refused the sign-in \\(invalid_client"),
    ],
)
def test_the_person_or_the_provider_may_decline(
    provider: OpenIdProvider, clock: Clock, decision: str, reason: str
) -> None:
    with pytest.raises(SignInFailedError, match=reason):
        on_another_device(provider, clock, lambda n: provider.decide(decision))


def test_nobody_is_waited_for_longer_than_the_code_is_valid(provider: OpenIdProvider, clock: Clock) -> None:
    provider.misbehave(DEVICE, fields={"interval": 60, "expires_in": 300})
    with pytest.raises(SignInFailedError, match="within 300 s"):
        on_another_device(provider, clock, lambda n: None)
    assert clock.seconds <= 400
    provider.misbehave(DEVICE, fields={"interval": "soon", "expires_in": 1e99})
    with pytest.raises(SignInFailedError, match="within 1800 s"):
        on_another_device(provider, clock, lambda n: provider.decide("slow_down"))


@pytest.mark.parametrize(
    ("path", "fields", "reason"),
    [
        (DEVICE, {"device_code": None}, "must have device_code"),
        (DEVICE, {"verification_uri": "http://192.0.2.1/device"}, "verification_uri .* must be an https URL"),
        (DEVICE, {"verification_uri_complete": "javascript:alert(1)"}, "verification_uri_complete .* must be an https"),
        ("/.well-known/openid-configuration", {"device_authorization_endpoint": None}, "does not support"),
        ("/token", {"id_token": None}, "must have id_token; is `openid` among the scopes"),
    ],
)
def test_what_a_provider_leaves_out_is_named(
    provider: OpenIdProvider, clock: Clock, path: str, fields: dict[str, str | None], reason: str
) -> None:
    provider.misbehave(path, fields=fields)
    with pytest.raises(SignInFailedError, match=reason):
        on_another_device(provider, clock, lambda n: provider.decide("approved"))


def test_a_provider_that_fails_is_named(provider: OpenIdProvider, clock: Clock) -> None:
    provider.misbehave(DEVICE, bytes=10)
    with pytest.raises(ProviderUnavailableError, match=provider.issuer):
        on_another_device(provider, clock, lambda n: None)
    provider.misbehave("/.well-known/openid-configuration", status=503)
    with pytest.raises(ProviderUnavailableError, match="answered 503"):
        with_browser(provider)
