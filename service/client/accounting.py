"""Accounting client: the routes about what was used and about budgets, each as a method.

Owns their addresses. It must not know how sums are shown.
"""

from __future__ import annotations

from search_spaces.protocol import API_PREFIX
from service.client.encoding import JSON, encode_json, path_part
from service.client.transport import PAGE, HttpTransport
from service.contract.budgets import Action
from service.contract.usage import BudgetList, BudgetView, UsagePage
from service.contract.usage_by import UsageBy


class AccountingClient:
    """`client.accounting`. Every method raises a RungError, as those of the client do."""

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport

    def usage(
        self, *, month: str | None = None, by: UsageBy | str = UsageBy.TEAM, team: str | None = None
    ) -> UsagePage:
        """What was used in a month (`2026-11`, by default the current one), all pages as one."""
        path, query = f"{API_PREFIX}/usage", {"month": month, "by": str(by), "team": team, "limit": PAGE}
        page = self._transport.get(UsagePage, path, query)
        items, cursor = page.items, page.next_cursor
        while cursor is not None:
            further = self._transport.get(UsagePage, path, query | {"month": page.month, "cursor": cursor})
            items, cursor = [*items, *further.items], further.next_cursor
        return page.model_copy(update={"items": items, "next_cursor": None})

    def budgets(self) -> list[BudgetView]:
        """The monthly budgets of the caller's teams, and what is used of them; for administrators, of all teams."""
        return self._transport.get(BudgetList, f"{API_PREFIX}/budgets").items

    def set_budget(
        self,
        team: str,
        *,
        gpu_hours: float | None = None,
        slot_hours: float | None = None,
        action: Action | str = Action.HOLD,
    ) -> BudgetView:
        """Set what a team may use in a month, in place of what was set before. For administrators."""
        body = encode_json({"gpu_hours": gpu_hours, "slot_hours": slot_hours, "action": str(action)}, "body")
        return self._transport.parse_response(BudgetView, self._transport.send("PUT", _budget(team), None, body, JSON))

    def remove_budget(self, team: str) -> None:
        """Let a team use all that it gets. For administrators."""
        self._transport.send("DELETE", _budget(team))


def _budget(team: str) -> str:
    return f"{API_PREFIX}/teams/{path_part(team, 'team')}/budget"
