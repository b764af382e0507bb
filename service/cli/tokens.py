"""Tokens: the commands about tokens, for programs and for other machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.login import Expires, parse_days
from service.cli.printable import echo
from service.cli.terminal import AsJson, Token, Url, app, connect, print_json, print_models, print_table, report_errors

if TYPE_CHECKING:
    from service.contract.identity import Role

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Create, list and revoke tokens.")
app.add_typer(group, name="token")


@group.command()
def create(
    name: Annotated[str, typer.Argument(help="what the token is for, such as nightly-ci")],
    team: Annotated[
        str | None, typer.Option(help="for a program of this team, which you manage; default: for yourself")
    ] = None,
    role: Annotated[
        str | None,
        typer.Option(
            help="role of the program in the team: viewer or member (default); without --team, the role to which the "
            "token is restricted (default: all that you may do)"
        ),
    ] = None,
    expires: Expires = "90",
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Create a token and print it once.

    The token itself is the only line on standard output, for scripts.
    """
    with report_errors(as_json), connect(url, token) as client:
        days = parse_days(expires)
        wanted = None if role is None else parse_role(role)
        if team is None:
            created = client.identity.create_token(name, expires_days=days, role=wanted)
        else:
            created = client.identity.create_token(
                name, expires_days=days, kind="service", team=team, role=wanted or "member"
            )
        if as_json:
            print_json(created.model_dump(mode="json"))
            return
        from service.cli.identity_tables import day

        restricted = f", restricted to the role {created.role}," if created.role else ""
        of = f" of team {created.team} ({created.role})" if created.team else restricted
        echo(f"token {created.id}{of} is valid until {day(created.expires_at)}; it is not shown again:", err=True)
        echo(created.token)


@group.command("list")
def list_tokens(
    team: Annotated[str | None, typer.Option(help="list the tokens of programs of this team, which you manage")] = None,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """List your tokens, or those of a team."""
    with report_errors(as_json), connect(url, token) as client:
        found = client.identity.tokens(team=team)
        if as_json:
            print_models(found)
            return
        from service.cli.identity_tables import tokens

        print_table(tokens(found))


@group.command()
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="id of the token, as in `rung token list`")],
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """End a token at once."""
    with report_errors(as_json), connect(url, token) as client:
        client.identity.revoke_token(token_id)
        if as_json:
            print_json({"id": token_id})
        else:
            echo(f"token {token_id} is revoked")


def parse_role(text: str) -> Role:
    """A role. Raises ValidationFailedError."""
    from typing import get_args

    from search_spaces.problems import Problem
    from service.contract.errors import ValidationFailedError, summary
    from service.contract.identity import Role

    for role in get_args(Role):
        if text == role:
            found: Role = role
            return found
    problem = Problem("--role", f"must be one of {', '.join(get_args(Role))}", text)
    raise ValidationFailedError(summary([problem]), [problem])
