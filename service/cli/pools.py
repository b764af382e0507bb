"""Pools: the commands about what teams share, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from search_spaces.pool_names import DEFAULT_POOL
from search_spaces.problems import Problem, SpecError
from service.cli.actions import Fields, parse_changes
from service.cli.printable import echo
from service.cli.terminal import AsJson, Token, Url, app, connect, print_json, print_models, print_table, report_errors

if TYPE_CHECKING:
    from service.contract.pools import PoolView

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show and change how the cluster is shared.")
app.add_typer(group, name="pool")

Name = Annotated[str, typer.Argument(metavar="POOL", help="name of the pool")]
Pool = Annotated[str, typer.Option("--pool", help="name of the pool")]


@group.command("list")
def list_pools(url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """List pools."""
    with report_errors(as_json), connect(url, token) as client:
        found = client.pools.all()
        if as_json:
            print_models(found)
            return
        from service.cli.pool_tables import pools

        print_table(pools(found))


@group.command()
def show(
    pool: Annotated[str, typer.Argument(metavar="POOL", help="name of the pool")] = DEFAULT_POOL,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Show how a pool is shared."""
    with report_errors(as_json), connect(url, token) as client:
        _show(client.pools.get(pool), as_json)


@group.command()
def change(
    fields: Fields, pool: Pool = DEFAULT_POOL, url: Url = "", token: Token = "", as_json: AsJson = False
) -> None:
    """Change how a pool is shared, or stop it.

    For administrators. The fields are labels ({"KEY": "VALUE"}, not of the pool default), stop (none, hold: nothing
    new starts, or drain: running experiments also yield), min_run_s, preempt_grace_s and min_drivers; null is the
    default.

    For example, before work on the nodes: rung pool change stop=drain
    """
    with report_errors(as_json), connect(url, token) as client:
        _show(client.pools.change(parse_changes(fields), pool=pool), as_json)


@group.command()
def create(
    pool: Name,
    label: Annotated[list[str], typer.Option("--label", metavar="KEY=VALUE", help="label of its nodes in Ray; repeat")],
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Create a pool of the nodes with these labels.

    For administrators. A node gets labels by `ray start --labels`. Teams may use the pool once they have a grant.

    For example: rung pool create gpu --label accelerator=h100
    """
    with report_errors(as_json), connect(url, token) as client:
        _show(client.pools.create(pool, _labels(label)), as_json)


@group.command()
def delete(pool: Name, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Delete a pool and its grants.

    For administrators. No experiment that has not ended may be in it.
    """
    with report_errors(as_json), connect(url, token) as client:
        client.pools.delete(pool)
        if as_json:
            print_json({"pool": pool})
        else:
            echo(f"there is no pool {pool} any more: its nodes belong to the pool {DEFAULT_POOL}")


def _labels(given: list[str]) -> dict[str, str]:
    """Raises SpecError for what is not KEY=VALUE."""
    problems = [Problem("--label", "must be KEY=VALUE", one) for one in given if "=" not in one]
    if problems:
        raise SpecError(problems)
    return {key: value for key, _, value in (one.partition("=") for one in given)}


def _show(view: PoolView, as_json: bool) -> None:
    if as_json:
        print_json(view.model_dump(mode="json"))
        return
    from service.cli.pool_tables import describe_pool

    for line in describe_pool(view):
        echo(line)
