"""Teams: the commands about teams and their members."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from search_spaces.phrases import size_text
from service.cli.printable import echo
from service.cli.terminal import AsJson, Token, Url, app, connect, print_json, print_models, print_table, report_errors
from service.cli.tokens import parse_role

if TYPE_CHECKING:
    from service.contract.identity import TeamView

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show and change teams and their members.")
app.add_typer(group, name="team")

Slug = Annotated[str, typer.Argument(metavar="TEAM", help="short name of the team")]
Login = Annotated[str, typer.Argument(metavar="LOGIN", help="login of the person")]


#: Bytes of each unit of a size.
UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "pb": 10**15}


def parse_size(text: str) -> int:
    """A size such as `500GB`, in bytes. Raises ValidationFailedError."""
    from search_spaces.problems import Problem
    from service.contract.errors import ValidationFailedError, summary

    found = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,18})?) ?([kmgtp]?b)", text.strip(), re.ASCII | re.IGNORECASE)
    if found is None:
        problem = Problem("SIZE", "must be a size such as 500GB, or none", text)
        raise ValidationFailedError(summary([problem]), [problem])
    return round(float(found[1]) * UNITS[found[2].lower()])


@group.command("list")
def list_teams(url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """List the teams that you may see."""
    with report_errors(as_json), connect(url, token) as client:
        found = client.identity.teams()
        if as_json:
            print_models(found)
            return
        from service.cli.identity_tables import teams

        print_table(teams(found))


@group.command()
def show(team: Slug, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Show a team and its members."""
    with report_errors(as_json), connect(url, token) as client:
        _show(client.identity.team(team), as_json)


@group.command()
def create(
    team: Slug,
    name: Annotated[str | None, typer.Option(help="name for others to read", show_default=False)] = None,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Create a team.

    For administrators. TEAM has 2 to 63 small letters, digits and hyphens.
    """
    with report_errors(as_json), connect(url, token) as client:
        _show(client.identity.create_team(team, name), as_json)


@group.command()
def add(
    team: Slug,
    login: Login,
    role: Annotated[str, typer.Option(help="viewer, member or manager")] = "member",
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Add a person to a team, or change their role.

    For managers of the team and administrators. A viewer reads, a member also submits and changes experiments, a
    manager also changes the team.
    """
    with report_errors(as_json), connect(url, token) as client:
        _show(client.identity.set_member(team, login, parse_role(role)), as_json)


@group.command()
def remove(team: Slug, login: Login, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Remove a person from a team.

    For managers of the team and administrators. Experiments stay with the team.
    """
    with report_errors(as_json), connect(url, token) as client:
        client.identity.remove_member(team, login)
        if as_json:
            print_json({"team": team, "login": login})
        else:
            echo(f"{login} is no member of team {team} now")


@group.command()
def storage(
    team: Slug,
    limit: Annotated[
        str | None,
        typer.Argument(metavar="[SIZE|none]", help="most that its files may take, such as 500GB", show_default=False),
    ] = None,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Show how much storage a team uses, or limit it.

    Only administrators set limits. A team that uses all of its limit can submit and resume nothing until it has deleted
    something.
    """
    with report_errors(as_json), connect(url, token) as client:
        if limit is None:
            found = client.identity.team(team)
        else:
            found = client.identity.limit_storage(team, None if limit == "none" else parse_size(limit))
        if as_json:
            print_json(found.model_dump(mode="json"))
        else:
            _echo_storage(found)


@group.command()
def archive(team: Slug, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Archive a team: it accepts nothing new.

    For administrators.
    """
    with report_errors(as_json), connect(url, token) as client:
        _show(client.identity.archive_team(team), as_json)


@group.command()
def unarchive(team: Slug, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Have an archived team accept submissions again.

    For administrators.
    """
    with report_errors(as_json), connect(url, token) as client:
        _show(client.identity.unarchive_team(team), as_json)


def _show(team: TeamView, as_json: bool) -> None:
    if as_json:
        print_json(team.model_dump(mode="json"))
        return
    from service.cli.identity_tables import members, person

    echo(f"team {person(team.team, team.name)}" + (", archived" if team.archived_at else ""))
    _echo_storage(team)
    if team.members:
        print_table(members(team))
    else:
        echo(f"  nobody is in it; `rung team add {team.team} LOGIN` adds a person")


def _echo_storage(team: TeamView) -> None:
    if team.storage is not None:
        used, limit = team.storage.used_bytes, team.storage.limit_bytes
        echo(f"  storage   {size_text(used)}" + ("" if limit is None else f" of {size_text(limit)}"))
