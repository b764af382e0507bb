"""Webhooks: the commands about where a team is notified."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.printable import echo, one_line
from service.cli.terminal import (
    FAILED,
    AsJson,
    Team,
    Token,
    Url,
    app,
    connect,
    print_json,
    print_models,
    print_table,
    report_errors,
)
from service.contract.webhook_events import Event

if TYPE_CHECKING:
    from service.client import Client
    from service.contract.webhooks import CreatedWebhook, DeliveryView, WebhookView

group = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Notify a team of its experiments. For managers of the team."
)
app.add_typer(group, name="webhook")

Id = Annotated[str, typer.Argument(metavar="ID", help="id of the webhook, as in `rung webhook list`")]
#: State of a test -> the sentence that tells it.
BECAME = {
    "pending": "the test was not delivered yet",
    "delivered": "the test was delivered",
    "failed": "the test was not delivered",
}
TEST_WAIT_S, POLL_S = 20.0, 0.5  # a try takes ten seconds at most, and begins within a few


@group.command("list")
def list_webhooks(team: Team = None, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """List webhooks, of one team or of all teams that you manage."""
    with report_errors(as_json), connect(url, token) as client:
        found = client.webhooks.list(team=team)
        if as_json:
            print_models(found)
            return
        from service.cli.webhook_tables import webhooks

        print_table(webhooks(found))


@group.command()
def create(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="https URL that notifications are posted to")],
    team: Team = None,
    event: Annotated[
        list[str] | None,
        typer.Option(
            help=f"an event to notify of, may be repeated; default: all. Events: {', '.join(Event)}",
            show_default=False,
        ),
    ] = None,
    slack: Annotated[bool, typer.Option("--slack", help="write texts as Slack and other chats take them")] = False,
    name: Annotated[str | None, typer.Option(help="what the webhook is for", show_default=False)] = None,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Create a webhook and print its secret once.

    The secret is the only line on standard output, for scripts.
    """
    with report_errors(as_json), connect(url, token) as client:
        created = client.webhooks.create(target, team=team, events=event, format="slack" if slack else None, name=name)
        _print_secret(created, "notifies", as_json)


@group.command()
def show(webhook_id: Id, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Show a webhook."""
    with report_errors(as_json), connect(url, token) as client:
        _show(client.webhooks.show(webhook_id), as_json)


@group.command("test")
def send_test(webhook_id: Id, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Send a test, and wait for what becomes of it.

    Exit status 1 if it was not delivered.
    """
    with report_errors(as_json), connect(url, token) as client:
        found = _await_end(client, webhook_id, client.webhooks.test(webhook_id))
        if as_json:
            print_json(found.model_dump(mode="json"))
        else:
            echo(BECAME[found.state] + (f": {one_line(found.outcome)}" if found.outcome else ""))
        if found.state != "delivered":
            raise typer.Exit(FAILED)


@group.command()
def rotate(webhook_id: Id, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Replace the secret of a webhook, and print the new one once.

    For a day, notifications are signed with the former one too.
    """
    with report_errors(as_json), connect(url, token) as client:
        _print_secret(client.webhooks.rotate(webhook_id), "signs with a new secret for", as_json)


@group.command()
def enable(webhook_id: Id, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Use a webhook again that was disabled because its target did not answer."""
    with report_errors(as_json), connect(url, token) as client:
        _show(client.webhooks.enable(webhook_id), as_json)


@group.command()
def delete(webhook_id: Id, url: Url = "", token: Token = "", as_json: AsJson = False) -> None:
    """Delete a webhook with its notifications."""
    with report_errors(as_json), connect(url, token) as client:
        client.webhooks.delete(webhook_id)
        if as_json:
            print_json({"id": webhook_id})
        else:
            echo(f"webhook {webhook_id} is deleted")


@group.command()
def deliveries(
    webhook_id: Id,
    limit: Annotated[int, typer.Option(min=1, help="maximum number of results")] = 20,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """List the notifications of a webhook, and what became of them."""
    with report_errors(as_json), connect(url, token) as client:
        found = list(client.webhooks.deliveries(webhook_id, limit=limit))
        if as_json:
            print_models(found)
            return
        from service.cli.webhook_tables import deliveries

        print_table(deliveries(found))


def _await_end(client: Client, webhook_id: str, sent: DeliveryView) -> DeliveryView:
    """The notification when it has ended, or as it is after TEST_WAIT_S."""
    deadline = time.monotonic() + TEST_WAIT_S
    while sent.state == "pending" and time.monotonic() < deadline:
        time.sleep(POLL_S)
        sent = next((one for one in client.webhooks.deliveries(webhook_id, limit=100) if one.id == sent.id), sent)
    return sent


def _print_secret(created: CreatedWebhook, does: str, as_json: bool) -> None:
    if as_json:
        print_json(created.model_dump(mode="json"))
        return
    echo(f"webhook {created.id} {does} {one_line(created.origin)}; its secret is not shown again:", err=True)
    echo(created.secret)


def _show(webhook: WebhookView, as_json: bool) -> None:
    if as_json:
        print_json(webhook.model_dump(mode="json"))
        return
    from service.cli.webhook_tables import describe

    for line in describe(webhook):
        echo(line)
