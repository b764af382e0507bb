"""Routes of webhooks: where a team is notified of what happens to its experiments."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from search_spaces.protocol import API_PREFIX
from service.api import access, changes, headers, webhook_views
from service.api.account_fields import Name
from service.api.callers import CurrentCaller, may
from service.api.dependencies import TEXT, CurrentContext
from service.api.error_handlers import error_responses
from service.api.integers import Integer
from service.contract.errors import ConflictError, NotFoundError
from service.contract.webhook_events import Event
from service.contract.webhooks import CreatedWebhook, DeliveryPage, DeliveryView, Format, WebhookList, WebhookView
from service.domain import webhooks
from service.domain.webhooks import NewWebhook
from service.identity import audit
from service.identity.permissions import Permission
from service.store.accounts import TEAM_CHARACTERS
from service.webhook_targets import MAX_URL_CHARACTERS

router = APIRouter(prefix=f"{API_PREFIX}/webhooks", tags=["webhooks"])

WebhookPath = Annotated[str, Path(max_length=32, pattern=TEXT, description="Identifier of the webhook.")]


class WebhookFilters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    team: str | None = Field(
        None, max_length=TEAM_CHARACTERS, pattern=TEXT, description="Only those of this team, which you manage."
    )


class DeliveryFilters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: Integer = Field(50, ge=1, le=1000, description="Largest number of notifications on the page.")
    after: Integer | None = Field(
        None, ge=1, lt=2**62, description="The `next_after` of the page before: only older ones."
    )


class WebhookRequest(BaseModel):
    """A webhook to be made."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        max_length=MAX_URL_CHARACTERS,
        pattern=TEXT,
        description="Where notifications are posted to: an https URL with public addresses.",
        examples=["https://hooks.example.com/rung"],
    )
    team: str | None = Field(
        None,
        max_length=TEAM_CHARACTERS,
        pattern=TEXT,
        description="Team whose events it is for; default: the only team that you manage.",
    )
    events: list[Event] = Field(
        default_factory=lambda: list(Event),
        min_length=1,
        max_length=len(Event),
        description="Events that it is for; default: all.",
    )
    format: Format = Field(
        "standard",
        description="How the bodies are written: `standard` is a JSON document, `slack` a text as Slack and other "
        "chats take it.",
    )
    name: Name = Field("", description="What it is for.", examples=["the team's chat"])


@router.get(
    "",
    summary="List webhooks",
    dependencies=[may(Permission.TEAM_MANAGE)],
    responses={200: headers.success("The webhooks."), **error_responses(NotFoundError)},
)
def list_webhooks(
    context: CurrentContext, caller: CurrentCaller, query: Annotated[WebhookFilters, Query()]
) -> WebhookList:
    """Lists the webhooks of the teams that you manage; for administrators, all. The oldest comes first."""
    with context.database.read() as session:
        teams = access.managed_teams(session, caller, query.team)
        rows = webhooks.list_all(session, teams)
        pending = webhooks.count_pending(session, rows)
    return WebhookList(items=[webhook_views.webhook(row, pending[row.id]) for row in rows])


@router.post(
    "",
    summary="Create a webhook",
    dependencies=[may(Permission.TEAM_MANAGE)],
    status_code=201,
    responses={
        201: headers.success("The webhook with its secret, which is shown this once."),
        **error_responses(NotFoundError, ConflictError),
    },
)
def create_webhook(context: CurrentContext, caller: CurrentCaller, wanted: WebhookRequest) -> CreatedWebhook:
    """Creates a webhook of a team that you manage.

    Each notification is signed as the Standard Webhooks specification says, with the secret of this response. Requests
    are sent to public addresses only, unless an administrator has allowed others.
    """
    now, allowed = datetime.now(UTC), context.settings.allowed_targets
    events = list(dict.fromkeys(wanted.events))
    with changes.transaction(context, caller) as session:
        team = access.managed_team(session, caller, wanted.team)
        new = NewWebhook(wanted.url, events, wanted.format, wanted.name)
        row, secret = webhooks.create(session, team, new, allowed, context.secrets, now)
        shown = webhook_views.webhook(row)
        caller.act.object = f"webhooks/{row.id}"
        caller.act.change = {"after": shown.model_dump(mode="json", include={"name", "origin", "format", "events"})}
        audit.record(session, caller.act, now)
    return CreatedWebhook(**shown.model_dump(), secret=secret)


@router.get(
    "/{webhook_id}",
    summary="Get a webhook",
    dependencies=[may(Permission.TEAM_MANAGE)],
    responses={200: headers.success("The webhook."), **error_responses(NotFoundError)},
)
def show_webhook(context: CurrentContext, caller: CurrentCaller, webhook_id: WebhookPath) -> WebhookView:
    """Returns a webhook, without its secret and the path of its URL."""
    with context.database.read() as session:
        row = access.find_webhook(session, caller, webhook_id)
        return webhook_views.webhook(row, webhooks.count_pending(session, [row])[row.id])


@router.delete(
    "/{webhook_id}",
    summary="Delete a webhook",
    dependencies=[may(Permission.TEAM_MANAGE)],
    status_code=204,
    responses={204: headers.success("There is no such webhook any more."), **error_responses(NotFoundError)},
)
def delete_webhook(context: CurrentContext, caller: CurrentCaller, webhook_id: WebhookPath) -> Response:
    """Deletes a webhook with its notifications, also those that are not delivered yet."""
    now = datetime.now(UTC)
    with changes.transaction(context, caller) as session:
        row = access.find_webhook(session, caller, webhook_id, lock=True)
        shown = webhook_views.webhook(row)
        caller.act.change = {"before": shown.model_dump(mode="json", include={"name", "origin", "format", "events"})}
        session.delete(row)
        audit.record(session, caller.act, now)
    return Response(status_code=204)


@router.post(
    "/{webhook_id}/test",
    summary="Send a test",
    dependencies=[may(Permission.TEAM_MANAGE)],
    status_code=202,
    responses={
        202: headers.success("The notification; the list of deliveries shows what became of it."),
        **error_responses(NotFoundError, ConflictError),
    },
)
def test_webhook(context: CurrentContext, caller: CurrentCaller, webhook_id: WebhookPath) -> DeliveryView:
    """Sends one notification that says only that it is a test. It is tried once."""
    now = datetime.now(UTC)
    with changes.transaction(context, caller) as session:
        row = access.find_webhook(session, caller, webhook_id, lock=True)
        delivery = webhooks.send_test(session, row, now)
        caller.act.change = {"after": {"delivery": delivery.message_id}}
        audit.record(session, caller.act, now)
    return webhook_views.delivery(delivery)


@router.post(
    "/{webhook_id}/rotate",
    summary="Replace the secret of a webhook",
    dependencies=[may(Permission.TEAM_MANAGE)],
    responses={
        200: headers.success("The webhook with its new secret, which is shown this once."),
        **error_responses(NotFoundError, ConflictError),
    },
)
def rotate_webhook(context: CurrentContext, caller: CurrentCaller, webhook_id: WebhookPath) -> CreatedWebhook:
    """Gives a webhook a new secret. For a day, notifications are signed with the former one too."""
    now = datetime.now(UTC)
    with changes.transaction(context, caller) as session:
        row = access.find_webhook(session, caller, webhook_id, lock=True)
        secret = webhooks.rotate(row, context.secrets, now)
        shown = webhook_views.webhook(row, webhooks.count_pending(session, [row])[row.id])
        caller.act.change = {"after": {"secret": "replaced"}}
        audit.record(session, caller.act, now)
    return CreatedWebhook(**shown.model_dump(), secret=secret)


@router.post(
    "/{webhook_id}/enable",
    summary="Enable a webhook",
    dependencies=[may(Permission.TEAM_MANAGE)],
    responses={200: headers.success("The webhook."), **error_responses(NotFoundError)},
)
def enable_webhook(context: CurrentContext, caller: CurrentCaller, webhook_id: WebhookPath) -> WebhookView:
    """Uses a webhook again that was disabled because its target did not answer. What was missed is not sent."""
    now = datetime.now(UTC)
    with changes.transaction(context, caller) as session:
        row = access.find_webhook(session, caller, webhook_id, lock=True)
        caller.act.change = {
            "before": {"disabled": row.disabled_at is not None, "reason": row.disabled_reason},
            "after": {"disabled": False, "reason": None},
        }
        webhooks.enable(row)
        shown = webhook_views.webhook(row, webhooks.count_pending(session, [row])[row.id])
        audit.record(session, caller.act, now)
    return shown


@router.get(
    "/{webhook_id}/deliveries",
    summary="List the notifications of a webhook",
    dependencies=[may(Permission.TEAM_MANAGE)],
    responses={200: headers.success("One page of notifications."), **error_responses(NotFoundError)},
)
def list_deliveries(
    context: CurrentContext,
    caller: CurrentCaller,
    webhook_id: WebhookPath,
    query: Annotated[DeliveryFilters, Query()],
) -> DeliveryPage:
    """Lists the notifications of a webhook, newest first, with what became of each. They are kept for 30 days."""
    with context.database.read() as session:
        row = access.find_webhook(session, caller, webhook_id)
        found = webhooks.deliveries(session, row, query.after, query.limit + 1)
    page = found[: query.limit]
    return DeliveryPage(
        items=[webhook_views.delivery(one) for one in page],
        next_after=page[-1].id if len(found) > query.limit else None,
    )
