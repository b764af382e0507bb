"""DeliveryWorker: the thread that sends the notifications of teams to their webhooks.

Owns which are under way: one for each webhook, so that they arrive in order while the target answers, and few for each
team. It acts only while the reconciler holds the lease. A notification is sent, then what came of it is written: after
a crash between the two it is sent again, with the same id.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from service.adapters.webhook_sender import WebhookSender
from service.context import AppContext, utc_now
from service.contract.errors import SEE_LOG
from service.delivery import message
from service.domain import deliveries
from service.domain.deliveries import Due, Result
from service.identity.secret_box import SecretUnreadableError
from service.store.leases import HeldLease, LeaseLostError, assert_held
from service.worker import Worker

INTERVAL_S = 1.0
MAX_UNDER_WAY = 16
SWEEP_S = 3600.0  # between two removals of notifications that ended long ago
STOP_TIMEOUT_S = 15.0  # longer than a try

log = logging.getLogger(__name__)


class DeliveryWorker(Worker):
    """`held` returns the lease."""

    def __init__(
        self,
        context: AppContext,
        held: Callable[[], HeldLease | None],
        sender: WebhookSender | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(
            "deliveries",
            interval_s=INTERVAL_S,
            stop_timeout_s=STOP_TIMEOUT_S,
            passing=(LeaseLostError, SQLAlchemyError),
            complaint="notifications are not sent and will be retried",
        )
        self._context = context
        self._held = held
        self._sender = sender or WebhookSender(context.settings.allowed_targets)
        self._clock = clock
        self._pool = ThreadPoolExecutor(MAX_UNDER_WAY, "delivery")
        self._lock = threading.Lock()
        self._busy: dict[str, str] = {}
        self._swept_at = float("-inf")

    def stop(self) -> None:
        """End the thread, and wait for the tries that are under way."""
        super().stop()
        self._pool.shutdown(cancel_futures=True)

    def run_once(self) -> list[Future[None]]:
        """Begin to send what is due; each result ends when what came of it is written. Raises SQLAlchemyError."""
        if (held := self._held()) is None:
            return []
        self._sweep(held)
        with self._lock:
            busy = dict(self._busy)
        with self._context.database.read() as session:
            found = deliveries.due(session, self._clock(), busy, MAX_UNDER_WAY - len(busy))
        with self._lock:
            self._busy |= {one.webhook.id: one.webhook.team_id for one in found}
        return [self._pool.submit(self._deliver, held, one) for one in found]

    def _deliver(self, held: HeldLease, due: Due) -> None:
        try:
            result = self._try(due)
            log.log(
                logging.INFO if result.delivered else logging.WARNING,
                "notification %s to webhook %s at %s: %s",
                *(due.delivery.message_id, due.webhook.id, due.webhook.origin, result.outcome),
            )
            now = self._clock()
            with self._context.database.write() as session:
                assert_held(session, held, now)
                deliveries.record(session, due.webhook.id, due.delivery.id, result, now)
        except (LeaseLostError, SQLAlchemyError) as error:
            log.warning("a notification will be sent again: %s", str(error).splitlines()[0])
        finally:
            with self._lock:
                del self._busy[due.webhook.id]

    def _try(self, due: Due) -> Result:
        try:
            return self._send(due)
        except Exception:  # such as an event that this version does not know
            log.exception("notification %s could not be sent", due.delivery.message_id)
            return Result(False, f"internal error; {SEE_LOG}")

    def _send(self, due: Due) -> Result:
        webhook, secrets, now = due.webhook, self._context.secrets, self._clock()
        try:
            known = [secrets.open(webhook.secret_encrypted)]
            if webhook.former_secret_encrypted and webhook.former_until and now < webhook.former_until:
                known.append(secrets.open(webhook.former_secret_encrypted))
            url = secrets.open(webhook.url_encrypted)
        except SecretUnreadableError as error:
            return Result(False, f"its URL and secret cannot be read: {error}")
        content = message.body(due.delivery, webhook.format, self._context.settings.public_url)
        return self._sender.send(url, content, message.headers(due.delivery.message_id, content, known, now))

    def _sweep(self, held: HeldLease) -> None:
        if time.monotonic() - self._swept_at < SWEEP_S:
            return
        with self._context.database.write() as session:
            assert_held(session, held, self._clock())
            deliveries.forget(session, self._clock())
        self._swept_at = time.monotonic()
