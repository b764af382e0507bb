"""A driver as the service sees it: a token, and the heartbeats that are sent with it."""

from __future__ import annotations

import json
from typing import Any

import httpx

from search_spaces.protocol import API_PREFIX, Heartbeat, LaunchConfig


class Driver:
    """Sends the heartbeats of one attempt; nothing runs behind it."""

    def __init__(self, client: httpx.Client, launch: LaunchConfig) -> None:
        self._client, self._launch = client, launch

    def send(self, message: Heartbeat | str) -> httpx.Response:
        """Any response is returned, errors too. Text is sent as it is."""
        return self._client.post(
            f"{API_PREFIX}/attempts/{self._launch.attempt_id}/heartbeat",
            headers={"Authorization": f"Bearer {self._launch.token}", "Content-Type": "application/json"},
            content=message if isinstance(message, str) else message.model_dump_json(),
        )

    def send_json(self, message: dict[str, Any]) -> httpx.Response:
        """Like `send`, with a message that is written as it is."""
        return self.send(json.dumps(message))
