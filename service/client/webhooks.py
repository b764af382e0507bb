"""Webhook client: the routes about webhooks, each as a method. Owns their addresses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from search_spaces.protocol import API_PREFIX
from service.client.encoding import JSON, encode_json, path_part, whole_number
from service.client.transport import PAGE, HttpTransport
from service.contract.webhooks import CreatedWebhook, DeliveryPage, DeliveryView, Format, WebhookList, WebhookView

ADDRESS = f"{API_PREFIX}/webhooks"


class WebhookClient:
    """`client.webhooks`. Every method raises a RungError, as those of the client do."""

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport

    def list(self, *, team: str | None = None) -> list[WebhookView]:
        """The webhooks of a team, or of all teams that the caller manages."""
        return self._transport.get(WebhookList, ADDRESS, {"team": team}).items

    def create(
        self,
        url: str,
        *,
        team: str | None = None,
        events: Sequence[str] | None = None,
        format: Format | None = None,
        name: str | None = None,
    ) -> CreatedWebhook:
        """Create a webhook, by default for all events. Its secret is shown once."""
        body = {"url": url, "team": team, "events": events and list(events), "format": format, "name": name}
        given = {key: value for key, value in body.items() if value is not None}
        answer = self._transport.send("POST", ADDRESS, None, encode_json(given, "body"), JSON)
        return self._transport.parse_response(CreatedWebhook, answer)

    def show(self, webhook_id: str) -> WebhookView:
        """A webhook. Raises NotFoundError."""
        return self._transport.get(WebhookView, _address(webhook_id))

    def delete(self, webhook_id: str) -> None:
        """Delete a webhook with its notifications."""
        self._transport.send("DELETE", _address(webhook_id))

    def test(self, webhook_id: str) -> DeliveryView:
        """Have a test sent; `deliveries` shows what became of it."""
        answer = self._transport.send("POST", f"{_address(webhook_id)}/test")
        return self._transport.parse_response(DeliveryView, answer)

    def rotate(self, webhook_id: str) -> CreatedWebhook:
        """Replace the secret. For a day, the former one signs too."""
        answer = self._transport.send("POST", f"{_address(webhook_id)}/rotate")
        return self._transport.parse_response(CreatedWebhook, answer)

    def enable(self, webhook_id: str) -> WebhookView:
        """Use a webhook again that was disabled."""
        answer = self._transport.send("POST", f"{_address(webhook_id)}/enable")
        return self._transport.parse_response(WebhookView, answer)

    def deliveries(self, webhook_id: str, *, limit: int | None = None) -> Iterator[DeliveryView]:
        """Its notifications, the newest first."""
        left = None if limit is None else whole_number(limit, "limit")
        after: int | None = None
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            query = {"limit": size, "after": after}
            page = self._transport.get(DeliveryPage, f"{_address(webhook_id)}/deliveries", query)
            yield from page.items
            after = page.next_after
            left = None if left is None else left - len(page.items)
            if after is None:
                return


def _address(webhook_id: str) -> str:
    return f"{ADDRESS}/{path_part(webhook_id, 'webhook_id')}"
