"""Login: the commands that sign a person in and out on this machine, and say who that is."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.printable import echo
from service.cli.terminal import AsJson, Token, Url, app, connect, print_json, report_errors

if TYPE_CHECKING:
    from service.client import Client
    from service.client.openid_sign_in import DevicePrompt, Obtained
    from service.client.token_store import TokenStore
    from service.contract.identity import AuthMethods, OidcMethod, SignedIn

Expires = Annotated[
    str, typer.Option("--expires", metavar="DAYS", help="days until the token ends, from 1 to 365, such as 90 or 90d")
]


@app.command()
def login(
    login: Annotated[
        str | None, typer.Option("--login", help="sign in with this login and a password", show_default=False)
    ] = None,
    device: Annotated[
        bool | None,
        typer.Option(
            "--device/--browser",
            help="sign in on another device, or with the browser of this machine; default: the browser if there is one",
            show_default=False,
        ),
    ] = None,
    with_token: Annotated[
        bool, typer.Option("--with-token", help="keep a token that you were given, such as that of `rung admin init`")
    ] = False,
    expires: Expires = "30",
    url: Url = "",
    as_json: AsJson = False,
) -> None:
    """Sign in to a service on this machine.

    The token that the service issues is stored in ~/.config/rung/tokens.json, and is sent to this service only. A
    password or a given token is read from the terminal, or from a line of standard input.
    """
    with report_errors(as_json):
        from service.cli.identity_tables import caller_name, moment
        from service.client import Client
        from service.client.credentials import default_url
        from service.client.token_store import StoredToken
        from service.http_client import is_secure

        days, store, address = parse_days(expires), _store(), url or default_url()
        if address.startswith("http://") and not is_secure(address):
            echo(f"warning: {address} is not encrypted: others on the network can read what you send", err=True)
        if with_token:
            given = read_password("Token").strip()
            with Client(address, given) as client:
                found = client.identity.whoami()
            who, document = caller_name(found), found.model_dump(mode="json")
            ends = found.token.expires_at if found.token else None
            stored = StoredToken(given, found.token.id if found.token else "", who, str(ends or ""))
        else:
            with Client(address, "") as client:
                signed = _sign_in(client, _methods(client), login, device, days)
            who, ends, document = (
                signed.user.login,
                signed.expires_at,
                signed.model_dump(mode="json", exclude={"token"}),
            )
            stored = StoredToken(signed.token, signed.id, who, str(ends))
        store.put(address, stored)
        if as_json:
            print_json({"url": client.url, **document})
        else:
            echo(f"signed in to {client.url} as {who}" + (f" until {moment(ends)}" if ends else ""))


@app.command()
def logout(url: Url = "", as_json: AsJson = False) -> None:
    """Sign out: revoke the token of this machine.

    The token is deleted here also if the service cannot be reached.
    """
    with report_errors(as_json):
        from service.client import Client
        from service.client.credentials import default_url
        from service.contract.errors import ConflictError, UnauthorizedError

        address, store = url or default_url(), _store()
        stored = store.find(address)
        if stored is None:
            raise ConflictError(f"nobody is signed in to {address} on this machine")
        store.remove(address)
        # A token that has ended needs no revocation.
        with Client(address, stored.token) as client, contextlib.suppress(UnauthorizedError):
            client.identity.logout()
        if as_json:
            print_json({"url": address, "login": stored.login})
        else:
            echo(f"signed out of {address}" + (f" ({stored.login})" if stored.login else ""))


@app.command()
def whoami(url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Say who you are for the service, and in which teams."""
    with report_errors(as_json), connect(url, token) as client:
        found = client.identity.whoami()
        if as_json:
            print_json({"url": client.url, "source": client.credential.source, **found.model_dump(mode="json")})
            return
        from service.cli.identity_tables import describe_caller

        for line in describe_caller(found, client.url, client.credential.source):
            echo(line)


def parse_days(text: str) -> int:
    """The days in `90` or `90d`. Raises ValidationFailedError."""
    from search_spaces.problems import Problem
    from service.contract.errors import ValidationFailedError, summary
    from service.contract.identity import MAX_TOKEN_DAYS

    digits = text.strip().removesuffix("d")
    if digits.isascii() and digits.isdigit() and len(digits) < 5 and 1 <= int(digits) <= MAX_TOKEN_DAYS:
        return int(digits)
    problem = Problem("--expires", f"must be a number of days from 1 to {MAX_TOKEN_DAYS}", text)
    raise ValidationFailedError(summary([problem]), [problem])


def read_password(prompt: str, *, repeat: bool = False) -> str:
    """A password from the terminal, which does not show it, or a line of standard input. Raises ConflictError."""
    from service.contract.errors import ConflictError

    if sys.stdin is None or not sys.stdin.isatty():
        line = "" if sys.stdin is None else sys.stdin.readline()
        if not line:
            raise ConflictError("there is no terminal to ask for a password: write it to standard input, as one line")
        return line.rstrip("\r\n")
    import getpass

    given = getpass.getpass(f"{prompt}: ")
    if repeat and getpass.getpass(f"{prompt} again: ") != given:
        raise ConflictError("the two passwords must be equal")
    return given


def _store() -> TokenStore:
    from service.client.credentials import open_store
    from service.contract.errors import ConflictError

    store = open_store()
    if store is None:
        raise ConflictError("there is no home folder to keep tokens in: set HOME or XDG_CONFIG_HOME")
    return store


def _methods(client: Client) -> AuthMethods:
    """How to sign in. Raises ConflictError where nobody needs to, or nobody can."""
    from service.contract.errors import ConflictError, NotFoundError

    try:
        methods = client.identity.methods()
    except NotFoundError:
        raise ConflictError(f"{client.url} has no accounts: it is a service of an earlier version") from None
    if methods.mode == "open":
        raise ConflictError(f"{client.url} has no accounts: it needs no token")
    if methods.mode == "owner":
        raise ConflictError(
            f"{client.url} has no accounts: it belongs to the person who started it, whose commands on that machine "
            "find its token by themselves. Elsewhere, set RUNG_URL, and RUNG_TOKEN to the content of the file "
            "owner_token in its home folder"
        )
    if methods.oidc is None and not methods.password:
        raise ConflictError(f"{client.url} offers no way to sign in: ask its administrator for a token")
    return methods


def _sign_in(client: Client, methods: AuthMethods, login: str | None, device: bool | None, days: int) -> SignedIn:
    from service.contract.errors import ConflictError

    if login is not None and device is not None:
        raise ConflictError(
            "--login signs in with a password, --device and --browser with an OpenID provider: give one"
        )
    name = f"rung login on {platform.node() or 'an unnamed machine'}"
    if methods.oidc is not None and login is None:
        obtained = _obtain(client, methods.oidc, device)
        return client.identity.exchange(obtained.id_token, nonce=obtained.nonce, name=name, expires_days=days)
    if not methods.password:
        raise ConflictError(f"{client.url} accepts no passwords: run `rung login --url {client.url}` without --login")
    if device is not None:
        raise ConflictError(f"{client.url} has no OpenID provider: run `rung login` without --device and --browser")
    given = typer.prompt("Login", err=True) if login is None else login
    password = read_password(f"Password of {given}")
    return client.identity.login(given, password, name=name, expires_days=days)


def _obtain(client: Client, method: OidcMethod, device: bool | None) -> Obtained:
    from service.client.openid_sign_in import sign_in_on_another_device, sign_in_with_browser
    from service.contract.errors import ConflictError
    from service.openid import Provider

    try:
        provider = Provider(method.issuer)
    except ValueError as error:
        raise ConflictError(f"the OpenID provider of {client.url} cannot be used: its issuer {error}") from None
    echo(f"Signing in to {client.url} with {method.issuer}", err=True)
    if device is None:
        device = not _has_browser() and provider.metadata().device_authorization_endpoint is not None
    if device:
        return sign_in_on_another_device(provider, method.client_id, method.scopes, _show_prompt)
    return sign_in_with_browser(provider, method.client_id, method.scopes, _open_page)


def _has_browser() -> bool:
    """Whether a page that this process opens is seen by the person at the terminal."""
    import webbrowser

    if not sys.stdin.isatty() or "SSH_CONNECTION" in os.environ:
        return False
    if sys.platform.startswith("linux") and not ({"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} & os.environ.keys()):
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def _show_prompt(prompt: DevicePrompt) -> None:
    echo(f"  Open   {prompt.url}\n  Enter  {prompt.code}", err=True)
    if prompt.direct_url:
        echo(f"  or open {prompt.direct_url}", err=True)
    echo("Waiting for you to sign in there; Ctrl-C stops.", err=True)


def _open_page(url: str) -> None:
    import webbrowser

    echo(f"Your browser opens this page; if not, open it on this machine:\n  {url}", err=True)
    webbrowser.open(url)
