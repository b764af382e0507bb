"""Users: the commands about people's accounts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.login import read_password
from service.cli.printable import echo, one_line
from service.cli.teams import Login
from service.cli.terminal import AsJson, Token, Url, app, connect, print_json, print_models, print_table, report_errors

if TYPE_CHECKING:
    from service.contract.identity import UserView

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show and change people's accounts.")
app.add_typer(group, name="user")

Name = Annotated[str | None, typer.Option(help="name for others to read", show_default=False)]
Email = Annotated[str | None, typer.Option(help="e-mail address", show_default=False)]


@group.command("list")
def list_users(url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """List all people.

    For administrators.
    """
    with report_errors(as_json), connect(url, token) as client:
        found = client.identity.users()
        if as_json:
            print_models(found)
            return
        from service.cli.identity_tables import users

        print_table(users(found))


@group.command()
def create(
    login: Login,
    name: Name = None,
    email: Email = None,
    admin: Annotated[bool, typer.Option("--admin", help="the person administers the service")] = False,
    password: Annotated[bool, typer.Option("--password", help="ask for a first password")] = False,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Create an account.

    For administrators. People who sign in with an OpenID provider get theirs by themselves.
    """
    with report_errors(as_json), connect(url, token) as client:
        first = read_password(f"First password of {login}", repeat=True) if password else None
        _show(client.identity.create_user(login, name=name, email=email, password=first, admin=admin), as_json)


@group.command()
def change(
    login: Login,
    name: Name = None,
    email: Email = None,
    admin: Annotated[
        bool | None, typer.Option("--admin/--no-admin", help="whether the person administers the service")
    ] = None,
    disabled: Annotated[
        bool | None,
        typer.Option("--disabled/--enabled", help="whether the account, with all its tokens, stops working"),
    ] = None,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Change an account.

    For administrators.
    """
    with report_errors(as_json), connect(url, token) as client:
        given: dict[str, Any] = {"name": name, "email": email, "admin": admin, "disabled": disabled}
        changes = {field: value for field, value in given.items() if value is not None}
        if not changes:
            from service.contract.errors import ValidationFailedError

            raise ValidationFailedError("there is nothing to change: give --name, --email, --admin or --disabled")
        _show(client.identity.change_user(login, **changes), as_json)


@group.command()
def password(login: Login, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Set a password: your own, or as an administrator.

    Without a terminal, standard input has the present password if it is your own, then the new one, a line each.
    An administrator who has no password yet gives an empty one as the present password.
    """
    with report_errors(as_json), connect(url, token) as client:
        caller = client.identity.whoami()
        is_own = caller.user is not None and caller.user.login == login
        old = read_password("Present password") if is_own else ""
        new = read_password(f"New password of {login}", repeat=True)
        if is_own and (old or not caller.admin):
            client.identity.change_password(old, new)
        else:
            client.identity.change_user(login, password=new)
        if as_json:
            print_json({"login": login})
        else:
            echo(f"the password of {login} is changed")


def _show(view: UserView, as_json: bool) -> None:
    if as_json:
        print_json(view.model_dump(mode="json"))
        return
    from service.cli.identity_tables import person

    states = [text for text, holds in (("admin", view.admin), ("disabled", view.disabled_at is not None)) if holds]
    echo(", ".join([person(view.login, view.name), *filter(None, [one_line(view.email)]), *states]))
