"""Grants: the commands about what each team may use of a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from search_spaces.pool_names import DEFAULT_POOL
from service.cli.actions import Fields, parse_changes
from service.cli.pools import Pool
from service.cli.printable import echo
from service.cli.teams import Slug
from service.cli.terminal import AsJson, Token, Url, app, connect, print_json, print_models, print_table, report_errors

if TYPE_CHECKING:
    from service.contract.pools import GrantView

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show and change what teams may use.")
app.add_typer(group, name="grant")


@group.command("list")
def list_grants(
    team: Annotated[str | None, typer.Option(help="only this team", show_default=False)] = None,
    pool: Pool = DEFAULT_POOL,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Show what teams may use, and what they use now.

    Of your teams; administrators see all.
    """
    with report_errors(as_json), connect(url, token) as client:
        if team is not None:
            team = client.identity.team(team).team
        _show([one for one in client.pools.grants(pool=pool) if team in (None, one.team)], as_json)


@group.command("set")
def set_grant(
    team: Slug,
    fields: Fields,
    pool: Pool = DEFAULT_POOL,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Change what a team may use.

    For administrators. The fields are weight, quota, limit, max_running, max_queued and max_priority; those that you do
    not name stay, and null is the default.

    For example: rung grant set vision weight=3 quota=4 limit=null
    """
    with report_errors(as_json), connect(url, token) as client:
        view = client.pools.change_grant(team, parse_changes(fields), pool=pool)
        if as_json:
            print_json(view.model_dump(mode="json"))
            return
        _show([view], as_json)
        for hint in view.hints:
            echo(hint, err=True)


@group.command()
def remove(team: Slug, pool: Pool = DEFAULT_POOL, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Give a team the defaults again: weight 1, no quota, no limits; in another pool than the default one, no right.

    For administrators.
    """
    with report_errors(as_json), connect(url, token) as client:
        client.pools.remove_grant(team, pool=pool)
        if as_json:
            print_json({"pool": pool, "team": team})
        elif pool != DEFAULT_POOL:
            echo(f"team {team} may not use the pool {pool} any more")
        else:
            echo(f"team {team} has the defaults now: weight 1, no quota, no limits")


def _show(found: list[GrantView], as_json: bool) -> None:
    if as_json:
        print_models(found)
        return
    from service.cli.pool_tables import grants

    print_table(grants(found))
