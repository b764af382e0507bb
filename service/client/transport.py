"""Transport: one service over HTTP: sends requests, parses answers, raises problem documents, and reads pages.

It must not know any address of the REST interface.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from search_spaces.request_limits import AnswerTooLargeError, RequestLimits
from service.addresses import check_host
from service.client.encoding import invalid, whole_number
from service.client.token_store import origin_of
from service.contract.errors import MEDIA_TYPE, RungError, UnavailableError, from_document, of_status
from service.http_client import EnvironmentUnusableError, fetch, open_client

V = TypeVar("V", bound=BaseModel)
Query = Mapping[str, str | int | bool | list[str] | None]
#: Items per request; the service allows up to 1,000.
PAGE = 100


#: Statuses with which a server that is not Rung answers an address of Rung's. Others may be those of a proxy before it.
FOREIGN = frozenset({404, 405, 501})
#: Statuses with which a proxy says that the service behind it does not answer, as while it restarts.
OF_PROXIES = frozenset({502, 503, 504})
#: In OpenSSL's words on a certificate that is expired, of another name, or of an unknown authority.
CERTIFICATE = "CERTIFICATE_VERIFY_FAILED"
#: Most of an answer that is not Rung's which a message shows.
SHOWN_CHARACTERS = 80


class UnreachableError(UnavailableError):
    """Nothing answers at the URL, or something that is not Rung."""

    code: ClassVar[str] = "unreachable"
    title: ClassVar[str] = "The service is unreachable"


class NoAnswerError(UnreachableError):
    """Nothing answers at the URL."""


class NotRungError(UnreachableError):
    """What answers at the URL is not Rung, or another version of it."""


class BearerAuth(httpx.Auth):
    """Sends a token to one origin only, whatever a request is for."""

    def __init__(self, token: str, url: str) -> None:
        self._token, self._origin = token, origin_of(url)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if origin_of(str(request.url)) == self._origin:
            request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


class HttpTransport:
    """Every method raises a RungError; UnreachableError where no Rung service answers."""

    def __init__(self, url: str, token: str | None, timeout_s: float, transport: httpx.BaseTransport | None) -> None:
        if not isinstance(url, str):
            raise TypeError(f"url must be a string (got {type(url).__name__})")
        if token and not (token.isascii() and token.isprintable() and " " not in token):
            raise invalid("token", "must be printable ASCII text without spaces")
        _check_url(url)
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._limits = RequestLimits(timeout_s)
        try:
            self._http = open_client(
                self.url,
                base_url=self.url,
                auth=BearerAuth(token, self.url) if token else None,
                follow_redirects=False,  # a redirect leads to another server, which must not get what is for this one
                timeout=timeout_s,
                transport=transport,
            )
        except EnvironmentUnusableError as error:
            raise UnreachableError(f"cannot send requests to {self.url}: {error}") from None
        except httpx.InvalidURL as error:
            raise invalid("url", f"must be an http(s) URL: {error}", url) from None

    def close(self) -> None:
        self._http.close()

    def pages(self, cls: type[V], path: str, query: Query, limit: int | None) -> Iterator[V]:
        cursor: str | None = None
        left = None if limit is None else whole_number(limit, "limit")
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page: Any = self.get(cls, path, {**query, "limit": size, "cursor": cursor})
            yield page
            if cursor is not None and page.next_cursor == cursor:
                raise NotRungError(f"{self.url} is not a Rung service: its pages do not end")
            cursor = page.next_cursor
            left = None if left is None else left - len(page.items)
            if cursor is None:
                return

    def get(self, cls: type[V], path: str, query: Query | None = None, timeout_s: float | None = None) -> V:
        return self.parse_response(cls, self.send("GET", path, query, timeout_s=timeout_s))

    def send(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: bytes | None = None,
        media_type: str | None = None,
        accept: int | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        takes_s: float = 0.0,
    ) -> httpx.Response:
        """The answer. Raises the error that its problem document describes, unless its status is `accept`.

        `timeout_s` waits shorter than usual, never longer; `takes_s` is how long the service may need for its answer,
        beside the usual time.
        """
        parameters = {name: value for name, value in (query or {}).items() if value is not None}
        headers = {**(headers or {}), **({"Content-Type": media_type} if media_type else {})}
        try:
            limit_s = takes_s + (self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s))
            options = {"params": parameters, "content": body, "headers": headers, "timeout": limit_s}
            response = fetch(self._http, self._limits, method, path, limit_s, **options)
        except (httpx.TimeoutException, TimeoutError):
            raise UnreachableError(f"the service at {self.url} did not answer in time; is it overloaded?") from None
        except AnswerTooLargeError as error:
            raise NotRungError(f"{self.url} is not a Rung service: {error}") from None
        except httpx.DecodingError as error:
            raise NotRungError(f"{self.url} is not a Rung service: its answer cannot be decoded ({error})") from None
        except (httpx.ReadError, httpx.RemoteProtocolError) as error:
            raise UnreachableError(
                f"the answer of {self.url} was cut off ({str(error) or type(error).__name__}): the service may have "
                "done what was asked; look before you repeat it"
            ) from None
        except (httpx.RequestError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            if CERTIFICATE in reason:
                raise UnreachableError(
                    f"the certificate of {self.url} is not accepted ({reason}); if an authority of your own issued it, "
                    "set SSL_CERT_FILE to the certificate of that authority"
                ) from None
            raise NoAnswerError(f"no Rung service answers at {self.url or repr(self.url)} ({reason})") from None
        if not response.is_success and (response.status_code != accept or _is_problem(response)):
            raise self._failure(response)
        return response

    def _failure(self, response: httpx.Response) -> RungError:
        if _is_problem(response):
            error = from_document(self.decode_object(response), response.status_code)
            is_nothing_there = error.status == 404 and any(problem.field == "path" for problem in error.problems)
            return self._not_rung(response) if is_nothing_there and self._base_path else error
        if response.status_code in FOREIGN or response.is_redirect:
            return self._not_rung(response)
        if response.status_code in OF_PROXIES:
            return UnreachableError(f"no Rung service answers behind {self.url}: it answered {response.status_code}")
        return of_status(response.status_code)(
            f"{response.request.method} {response.url} answered {response.status_code} {response.text[:200]}"
        )

    def parse_response(self, cls: type[V], response: httpx.Response) -> V:
        return self.parse_as(cls, self.decode_json(response))

    def parse_as(self, cls: type[V], data: Any) -> V:
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, (cls.__name__, *first["loc"])))
            raise NotRungError(
                f"{self.url} is not a Rung service, or one of another version ({place}: {first['msg']})"
            ) from None

    def decode_json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except (ValueError, RecursionError):  # the latter of a document of too many levels
            raise self._not_rung(response) from None

    @property
    def _base_path(self) -> str:
        return httpx.URL(self.url).path.rstrip("/")

    def _not_rung(self, response: httpx.Response) -> NotRungError:
        """What answered. A path in the URL, such as /docs, is the likely cause."""
        address = response.request.url
        found = f"{self.url} is not a Rung service"
        if self._base_path:
            return NotRungError(f"{found}; try it without {self._base_path}")
        text = " ".join(response.text[: 2 * SHOWN_CHARACTERS].split())[:SHOWN_CHARACTERS]
        return NotRungError(
            f"{found} ({response.request.method} {address.path} answered {response.status_code} {text!r})"
        )

    def decode_object(self, response: httpx.Response) -> dict[str, Any]:
        data = self.decode_json(response)
        return data if isinstance(data, dict) else {"detail": str(data)}


def _check_url(url: str) -> None:
    try:
        if not url.lower().startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        check_host(url)
    except ValueError as error:
        raise invalid("url", str(error), url) from None


def _is_problem(response: httpx.Response) -> bool:
    return str(response.headers.get("content-type", "")).partition(";")[0] == MEDIA_TYPE
