"""Security headers: what browsers must not do with the responses of the service. Pure ASGI.

Owns the headers that every response has. A response that needs other values sets them itself.
"""

from __future__ import annotations

import base64
import hashlib
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CACHE_CONTROL, POLICY = "Cache-Control", "Content-Security-Policy"
#: Responses are data: a browser that shows one loads nothing for it, and no page may frame it.
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    POLICY: "default-src 'none'; frame-ancestors 'none'",
    CACHE_CONTROL: "no-store",
}
CACHE_NAME = CACHE_CONTROL.lower().encode()
#: Scripts, style sheets and icons of a release: they are not secret.
CACHEABLE = "no-cache"


class SecurityHeadersMiddleware:
    """Adds HEADERS to each response that does not set them; files below `assets` may be stored."""

    def __init__(self, app: ASGIApp, assets: str) -> None:
        self._app = app
        self._assets = assets
        self._added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        is_asset = scope["path"].startswith(f"{self._assets}/")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = dict(message["headers"])
                added = [(name, value) for name, value in self._added if name not in present]
                if is_asset and message["status"] < 400:
                    added = [(name, CACHEABLE.encode() if name == CACHE_NAME else value) for name, value in added]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        return await self._app(scope, receive, send_with_headers)


def policy_of_page(html: str) -> str:
    """The Content-Security-Policy of a page: it may load from this service and run the scripts that it contains."""
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(["'self'", *(f"'sha256-{digest}'" for digest in digests)])
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
