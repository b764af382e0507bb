"""HTTP client: clients that follow the environment: its proxies and its certificates; and requests with limits.

Owns that neither matters for a server on this machine, and that a variable that cannot be used is named. It must not
know any server.
"""

from __future__ import annotations

import ipaddress
import os
from typing import Any
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

import httpx

from search_spaces.request_limits import Read, RequestLimits

PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
#: Headers of a body as it was sent, which no longer describe one that has been decoded.
ENCODING = frozenset({"content-encoding", "content-length", "transfer-encoding"})


class EnvironmentUnusableError(Exception):
    """Variables of the environment from which no client can be made. The message names them."""


def open_client(url: str, **options: Any) -> httpx.Client:
    """A client for requests to `url`, an http or https URL. `options` are httpx's.

    Raises EnvironmentUnusableError, and httpx.InvalidURL for the URL.
    """
    httpx.URL(url)
    direct = is_local(url) or _is_bypassed(url)
    try:
        # A plain connection needs no certificates, so that none are read.
        verify = False if url.startswith("http://") else httpx.create_ssl_context()
    except OSError as error:  # also of ssl
        if not (given := _given(CERTIFICATES)):
            raise
        raise EnvironmentUnusableError(f"{given} must name readable certificates: {error}") from error
    try:
        return httpx.Client(trust_env=not direct, verify=verify, **options)
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        if direct or not (given := _given(PROXIES)):
            raise
        why = "a SOCKS proxy needs the package socksio" if isinstance(error, ImportError) else str(error)
        hint = "add the host to NO_PROXY to reach it without a proxy"
        raise EnvironmentUnusableError(f"{given} cannot be used: {why}; {hint}") from error


def fetch(
    client: httpx.Client, limits: RequestLimits, method: str, url: str, timeout_s: float | None = None, **options: Any
) -> httpx.Response:
    """The whole answer to one request, within the limits. `options` are httpx's.

    Raises what httpx raises, TimeoutError at the deadline, and AnswerTooLargeError.
    """

    def request(read: Read) -> httpx.Response:
        with client.stream(method, url, **options) as response:
            body = read(response.iter_bytes())
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in ENCODING]
        return httpx.Response(response.status_code, headers=headers, content=body, request=response.request)

    return limits.run(request, timeout_s)


def is_local(url: str) -> bool:
    """Whether a URL is that of this machine, to which no proxy leads back."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_secure(url: str) -> bool:
    """Whether what is sent to a URL stays secret: it is an https URL, or one of this machine."""
    try:
        split = urlsplit(url)
        valid = bool(split.hostname) and split.port != 0
    except ValueError:
        return False
    return valid and (split.scheme == "https" or (split.scheme == "http" and is_local(url)))


def _is_bypassed(url: str) -> bool:
    """Whether NO_PROXY has the host. httpx looks at it only after it has set up all proxies."""
    try:
        split = urlsplit(url)
        return bool(proxy_bypass(split.netloc.rpartition("@")[2]))
    except ValueError:
        return False


def _given(names: tuple[str, ...]) -> str:
    """The variables that are set, in either case, without their values, which may hold a password."""
    return ", ".join(sorted(name for name in os.environ if name.upper() in names and os.environ[name]))
