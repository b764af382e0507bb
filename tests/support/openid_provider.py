"""A real OpenID provider as a process of its own: discovery, keys, authorization code with PKCE, and the device grant.

`python -m tests.support.openid_provider` serves on a free port and prints it. Tests change what it does over
`/control`, also to what no honest provider does. Its only client is `rung`, its only person is alice.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
from joserfc import jws
from joserfc.jwk import RSAKey

from tests.support.handlers import QuietHandler

CLIENT = "rung"
PENDING = "authorization_pending"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
PERSON = {
    "sub": "subject-1",
    "preferred_username": "alice",
    "name": "Alice Example",
    "email": "alice@example.com",
    "email_verified": True,
}


class State:
    """What the provider knows. `odd` maps a path to how its answers differ: `status`, `delay_s`, `bytes`, `fields`."""

    def __init__(self) -> None:
        self.issuer = ""
        self.lock = threading.Lock()
        self.keys = [_new_key("first")]
        self.odd: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.codes: dict[str, dict[str, str]] = {}
        self.devices: set[str] = set()
        self.decision = PENDING

    def id_token(self, claims: dict[str, Any], sign: str = "newest", kid: str | None = "") -> str:
        now = int(time.time())
        body = {
            "iss": self.issuer,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "jti": secrets.token_hex(8),
            **PERSON,
            **claims,
        }
        body = {name: value for name, value in body.items() if value is not None}
        key = {"newest": self.keys[-1], "oldest": self.keys[0], "foreign": _new_key("first")}.get(sign)
        if key is not None:
            header = {"alg": "RS256", "kid": key.kid if kid == "" else kid}
            protected = {name: value for name, value in header.items() if value}
            return jws.serialize_compact(protected, json.dumps(body), key, ["RS256"])
        algorithm = {"none": "none", "symmetric": "HS256"}[sign]
        text = ".".join(_encode(json.dumps(part).encode()) for part in ({"alg": algorithm, "kid": "first"}, body))
        published = json.dumps(self.keys[0].as_dict(private=False)).encode()
        signature = b"" if sign == "none" else hmac.digest(published, text.encode(), "sha256")
        return f"{text}.{_encode(signature)}"


def _new_key(kid: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"})


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _handler(state: State) -> type[QuietHandler]:
    class Handler(QuietHandler):
        def respond(self) -> None:
            split = urlsplit(self.path)
            odd = state.odd.get(split.path, {})
            with state.lock:
                state.requests.append(split.path)
            time.sleep(odd.get("delay_s", 0))
            text = self.body().decode()
            if split.path == "/control":
                self.send_json(200, control(state, json.loads(text)))
                return
            if "bytes" in odd:
                self.answer(200, b" " * odd["bytes"])
                return
            query = {name: values[0] for name, values in parse_qs(split.query or text).items()}
            route = ROUTES.get(split.path)
            status, document = route(state, query) if route else (404, {"error": "no such page"})
            if status == 302:
                self.send_response(302)
                self.send_header("Location", document["location"])
                self.end_headers()
                return
            self.send_json(odd.get("status", status), {**document, **odd.get("fields", {})})

        def send_json(self, status: int, document: Any) -> None:
            with contextlib.suppress(OSError):  # the client did not wait
                self.answer(status, json.dumps(document).encode())

    return Handler


def control(state: State, order: dict[str, Any]) -> dict[str, Any]:
    """What a test asks for."""
    if "odd" in order:
        state.odd = order["odd"]
    if "rotate" in order:
        state.keys.append(_new_key(order["rotate"]))
    if "decide" in order:
        state.decision = order["decide"]
    if "id_token" in order:
        return {"id_token": state.id_token(**order["id_token"])}
    return {"requests": state.requests}


def metadata(state: State, _query: dict[str, str]) -> tuple[int, dict[str, Any]]:
    return 200, {
        "issuer": state.issuer,
        "jwks_uri": f"{state.issuer}/keys",
        "authorization_endpoint": f"{state.issuer}/authorize",
        "token_endpoint": f"{state.issuer}/token",
        "device_authorization_endpoint": f"{state.issuer}/device_authorization",
        "id_token_signing_alg_values_supported": ["RS256"],
    }


def keys(state: State, _query: dict[str, str]) -> tuple[int, dict[str, Any]]:
    others = [{"kty": "oct", "k": "c2VjcmV0", "kid": "symmetric"}, {"kty": "AKP", "kid": "of the future"}]
    return 200, {"keys": [*others, *(key.as_dict(private=False) for key in state.keys)]}


def authorize(state: State, query: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """Alice signs in at once."""
    assert query["client_id"] == CLIENT
    assert query["response_type"] == "code"
    assert query["code_challenge_method"] == "S256"
    assert "openid" in query["scope"].split()
    code = secrets.token_urlsafe(8)
    state.codes[code] = query
    answer = {"code": code, "state": query["state"], "iss": state.issuer, **state.odd.get("answer", {})}
    answer = {name: value for name, value in answer.items() if value is not None}
    return 302, {"location": f"{query['redirect_uri']}?{urlencode(answer)}"}


def token(state: State, query: dict[str, str]) -> tuple[int, dict[str, Any]]:
    if query.get("client_id") != CLIENT:
        return 401, {"error": "invalid_client"}
    if query["grant_type"] == DEVICE_GRANT:
        return device_token(state, query["device_code"])
    asked = state.codes.pop(query["code"], None)
    if asked is None or asked["redirect_uri"] != query["redirect_uri"]:
        return 400, {"error": "invalid_grant"}
    digest = hashlib.sha256(query["code_verifier"].encode()).digest()
    if _encode(digest) != asked["code_challenge"]:
        return 400, {"error": "invalid_grant", "error_description": "the code verifier is wrong"}
    return 200, {"id_token": state.id_token({"nonce": asked["nonce"]}), "access_token": "a", "token_type": "Bearer"}


def device_authorization(state: State, query: dict[str, str]) -> tuple[int, dict[str, Any]]:
    assert query["client_id"] == CLIENT
    code = secrets.token_urlsafe(8)
    state.devices.add(code)
    page = f"{state.issuer}/device"
    return 200, {
        "device_code": code,
        "user_code": "WDJB-MJHT",
        "verification_uri": page,
        "verification_uri_complete": f"{page}?user_code=WDJB-MJHT",
        "expires_in": 600,
        "interval": 1,
    }


def device_token(state: State, code: str) -> tuple[int, dict[str, Any]]:
    if code not in state.devices:
        return 400, {"error": "invalid_grant"}
    if state.decision != "approved":
        return 400, {"error": state.decision}
    state.devices.remove(code)
    return 200, {"id_token": state.id_token({}), "access_token": "a", "token_type": "Bearer"}


ROUTES = {
    "/.well-known/openid-configuration": metadata,
    "/keys": keys,
    "/authorize": authorize,
    "/token": token,
    "/device_authorization": device_authorization,
}


class OpenIdProvider:
    """The process, seen from a test."""

    def __init__(self, issuer: str, process: subprocess.Popen[str]) -> None:
        self.issuer, self._process = issuer, process

    def behave(self) -> None:
        """Answer as it should from now on; nobody has decided anything on another device."""
        self._control({"odd": {}, "decide": PENDING})

    def misbehave(self, path: str, **how: Any) -> None:
        """How the answers of a path, or the redirects as `answer`, differ from now on."""
        self._control({"odd": {path: how}})

    def rotate(self, kid: str) -> None:
        """Sign with a new key from now on."""
        self._control({"rotate": kid})

    def decide(self, decision: str) -> None:
        """What the person does on the other device: `approved`, or an error of RFC 8628."""
        self._control({"decide": decision})

    def id_token(self, sign: str = "newest", kid: str | None = "", **claims: Any) -> str:
        """An ID token with these claims in place of the right ones; None leaves one out."""
        order = {"id_token": {"claims": claims, "sign": sign, "kid": kid}}
        return str(self._control(order)["id_token"])

    def count(self, path: str) -> int:
        """How often a path was asked for."""
        requests: list[str] = self._control({})["requests"]
        return requests.count(path)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _control(self, order: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(f"{self.issuer}/control", content=json.dumps(order), trust_env=False, timeout=20)
        found: dict[str, Any] = answer.json()
        return found


@contextlib.contextmanager
def openid_provider() -> Iterator[OpenIdProvider]:
    """A provider that runs for the length of the block."""
    command = [sys.executable, "-m", "tests.support.openid_provider"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            yield OpenIdProvider(f"http://127.0.0.1:{int(process.stdout.readline())}", process)
        finally:
            process.terminate()


def main() -> None:
    state = State()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(state)) as server:
        state.issuer = f"http://127.0.0.1:{server.server_address[1]}"
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
