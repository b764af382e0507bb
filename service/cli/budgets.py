"""Budgets: the commands about what teams may use in a month."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.printable import echo
from service.cli.terminal import AsJson, Token, Url, app, connect, print_json, print_models, print_table, report_errors
from service.contract.budgets import Action

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show and set what teams may use in a month.")
app.add_typer(group, name="budget")

Slug = Annotated[str, typer.Argument(metavar="TEAM", help="short name of the team")]


@group.command("list")
def list_budgets(url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """List the budgets of your teams, and what is used of them."""
    with report_errors(as_json), connect(url, token) as client:
        found = client.accounting.budgets()
        if as_json:
            print_models(found)
            return
        from service.cli.usage_tables import budgets as shown

        if found:
            print_table(shown(found))
        else:
            echo("no team that you may see has a budget")


@group.command("set")
def set_budget(
    team: Slug,
    gpu_hours: Annotated[float | None, typer.Option(help="GPU hours of a month", show_default=False)] = None,
    slot_hours: Annotated[float | None, typer.Option(help="slot hours of a month", show_default=False)] = None,
    action: Annotated[Action, typer.Option(help="what happens when it is spent")] = Action.HOLD,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Set what a team may use in each month, in place of what was set before.

    For administrators. When it is spent, `hold` gives the team no slots until the month ends or the budget is raised;
    `warn` only says so.
    """
    with report_errors(as_json), connect(url, token) as client:
        found = client.accounting.set_budget(team, gpu_hours=gpu_hours, slot_hours=slot_hours, action=action)
        if as_json:
            print_json(found.model_dump(mode="json"))
            return
        from service.cli.usage_tables import budgets as shown

        print_table(shown([found]))


@group.command("remove")
def remove_budget(team: Slug, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Let a team use all that it gets.

    For administrators.
    """
    with report_errors(as_json), connect(url, token) as client:
        client.accounting.remove_budget(team)
        if as_json:
            print_json({"team": team})
        else:
            echo(f"team {team} has no budget now")
