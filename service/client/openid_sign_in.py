"""OpenID sign-in: obtains an ID token from a provider, with a browser on this machine or on another device.

Authorization code with PKCE over a loopback redirect (RFC 7636, RFC 8252), and the device grant (RFC 8628). Owns what
is sent to the provider. It must not know Rung's service, nor terminals.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from search_spaces.problems import shorten
from service.contract.errors import UnauthorizedError
from service.http_client import is_secure
from service.openid import Answer, Provider, ProviderUnavailableError

#: RFC 8628, section 3.5: seconds between two questions where the provider states none, and what `slow_down` adds.
INTERVAL_S, SLOW_DOWN_S, MAX_INTERVAL_S = 5.0, 5.0, 60.0
#: Longest time to wait for a person, whatever the provider allows.
MAX_WAIT_S = 1800.0
#: Time for a person to sign in with a browser on this machine.
BROWSER_WAIT_S = 300.0
CALLBACK = "/callback"
DONE_PAGE = b"<!doctype html><title>Rung</title><p>You can close this page and return to the terminal.</p>"


class SignInFailedError(UnauthorizedError):
    """The provider, or the person, refused the sign-in."""


@dataclass(frozen=True)
class DevicePrompt:
    """What a person needs to sign in on another device. `direct_url` contains the code; it may be empty."""

    url: str
    code: str
    direct_url: str


@dataclass(frozen=True)
class Obtained:
    """An ID token, and the nonce that the sign-in began with, if it had one."""

    id_token: str
    nonce: str | None = None


def sign_in_on_another_device(
    provider: Provider,
    client_id: str,
    scopes: Sequence[str],
    show: Callable[[DevicePrompt], object],
    *,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Obtained:
    """The ID token of a person who follows the prompt. Raises SignInFailedError and ProviderUnavailableError."""
    metadata = provider.metadata()
    if metadata.device_authorization_endpoint is None:
        raise SignInFailedError(f"{provider.issuer} does not support signing in on another device")
    began = clock()
    answer = provider.request(
        "POST", metadata.device_authorization_endpoint, {"client_id": client_id, "scope": " ".join(scopes)}
    )
    if answer.status != 200:
        raise _refused(answer)
    device_code = _text(answer, "device_code")
    prompt = DevicePrompt(
        _page(answer, "verification_uri"),
        _text(answer, "user_code"),
        _page(answer, "verification_uri_complete") if "verification_uri_complete" in answer.document else "",
    )
    wait_s = min(_number(answer, "expires_in", MAX_WAIT_S), MAX_WAIT_S)
    interval_s = min(_number(answer, "interval", INTERVAL_S), MAX_INTERVAL_S)
    show(prompt)
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "device_code": device_code,
        "client_id": client_id,
    }
    while clock() - began + interval_s < wait_s:
        sleep(interval_s)
        try:
            answer = provider.request("POST", metadata.token_endpoint, form)
        except ProviderUnavailableError:  # it may be a short outage
            interval_s = min(2 * interval_s, MAX_INTERVAL_S)
            continue
        if answer.status == 200:
            return Obtained(_text(answer, "id_token"))
        error = answer.document.get("error")
        if error == "slow_down":
            interval_s = min(interval_s + SLOW_DOWN_S, MAX_INTERVAL_S)
        elif error != "authorization_pending":
            raise _refused(answer)
    raise SignInFailedError(f"nobody entered the code within {wait_s:.0f} s; run the command again for a new one")


def sign_in_with_browser(
    provider: Provider,
    client_id: str,
    scopes: Sequence[str],
    open_page: Callable[[str], object],
    *,
    wait_s: float = BROWSER_WAIT_S,
) -> Obtained:
    """The ID token of a person who signs in on the page that `open_page` receives. Raises SignInFailedError and
    ProviderUnavailableError."""
    metadata = provider.metadata()
    verifier, state, nonce = (secrets.token_urlsafe(32) for _ in range(3))
    with _Callback(state) as callback:
        redirect = f"http://127.0.0.1:{callback.port}{CALLBACK}"
        parameters = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": redirect,
            "scope": " ".join(scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": code_challenge(verifier),
            "code_challenge_method": "S256",
        }
        joint = "&" if urlsplit(metadata.authorization_endpoint).query else "?"
        open_page(f"{metadata.authorization_endpoint}{joint}{urlencode(parameters)}")
        answered = callback.wait(wait_s)
    if answered is None:
        raise SignInFailedError(f"nobody signed in within {wait_s:.0f} s")
    if answered.get("iss", provider.issuer) != provider.issuer:  # RFC 9207: the answer of another provider
        raise SignInFailedError(f"the answer must come from {provider.issuer} (got {shorten(answered['iss'])})")
    if "code" not in answered:
        raise _refused(Answer(400, dict(answered)))
    answer = provider.request(
        "POST",
        metadata.token_endpoint,
        {
            "grant_type": "authorization_code",
            "code": answered["code"],
            "redirect_uri": redirect,
            "client_id": client_id,
            "code_verifier": verifier,
        },
    )
    if answer.status != 200:
        raise _refused(answer)
    return Obtained(_text(answer, "id_token"), nonce)


def code_challenge(verifier: str) -> str:
    """The S256 challenge of RFC 7636, section 4.2."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


class _Callback:
    """A server on a free port of this machine that waits for one answer with the right state. Browsers open more
    connections than they use."""

    def __init__(self, state: str) -> None:
        self._answer: dict[str, str] | None = None
        self._arrived = threading.Event()
        callback = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10  # of a connection that sends nothing

            def do_GET(self) -> None:
                split = urlsplit(self.path)
                fields = {name: values[0] for name, values in parse_qs(split.query).items()}
                given = fields.get("state", "")
                if split.path != CALLBACK or not secrets.compare_digest(given.encode(), state.encode()):
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(DONE_PAGE)))
                self.end_headers()
                self.wfile.write(DONE_PAGE)
                if not callback._arrived.is_set():
                    callback._answer = fields
                    callback._arrived.set()

            def log_message(self, *_: object) -> None:
                """The address has the code: it is not logged."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.port = int(self._server.server_address[1])

    def wait(self, seconds: float) -> dict[str, str] | None:
        self._arrived.wait(seconds)
        return self._answer

    def __enter__(self) -> _Callback:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _refused(answer: Answer) -> SignInFailedError:
    """What the provider said, in the words of RFC 6749, section 5.2."""
    known = {
        "access_denied": "the sign-in was declined",
        "expired_token": "the code has expired; run the command again for a new one",
    }
    error = str(answer.document.get("error", f"status {answer.status}"))
    if error in known:
        return SignInFailedError(known[error])
    description = answer.document.get("error_description")
    more = f": {shorten(description)}" if isinstance(description, str) else ""
    return SignInFailedError(f"the OpenID provider refused the sign-in ({shorten(error)}{more})")


def _text(answer: Answer, name: str) -> str:
    value = answer.document.get(name)
    if not isinstance(value, str) or not value:
        hint = "; is `openid` among the scopes of the service?" if name == "id_token" else ""
        raise SignInFailedError(f"the answer of the OpenID provider must have {name}{hint}")
    return value


def _page(answer: Answer, name: str) -> str:
    url = _text(answer, name)
    if not is_secure(url):
        raise SignInFailedError(f"{name} of the OpenID provider must be an https URL (got {shorten(url)})")
    return url


def _number(answer: Answer, name: str, default: float) -> float:
    value: Any = answer.document.get(name, default)
    return float(value) if isinstance(value, int | float) and value > 0 else default
