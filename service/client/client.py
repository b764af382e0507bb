"""Client: the SDK. Each route of the REST API is a method; its errors are in `service.contract.errors`.

    with Client("http://127.0.0.1:8080") as client:
        experiment = client.submit({"name": "first"})
        print(client.wait(experiment.id).best)

Owns what takes longer than a request. The requests are in `experiments`, `trials` and `installation`, and by the nouns
that are attributes here; how they are sent is in `transport`, how values are encoded in `encoding`, and when a request
is tried again in `retry`. It must not know terminals, nor the database.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import httpx

from service.client.accounting import AccountingClient
from service.client.addresses import experiment_path
from service.client.credentials import Credential, find_credential
from service.client.encoding import invalid
from service.client.experiments import ExperimentMethods
from service.client.identity import IdentityClient
from service.client.installation import InstallationMethods
from service.client.log_follower import DONE, WAIT, LogFollower, read_log
from service.client.pools import PoolsClient
from service.client.retry import Waiting, retry
from service.client.transport import HttpTransport
from service.client.trials import TrialMethods
from service.client.webhooks import WebhookClient
from service.contract.schemas import ExperimentView, LogChunk
from service.contract.states import ACTIVE

#: Seconds that `watch` and `follow_logs` retry: experiments run without the service.
WATCH_RETRY_S = 60.0
#: Timeout of the first try of a refresh of `watch`: a service that hangs is reported after this time. Later ones take
#: the client's own timeout, for a service that is only slow.
FIRST_ANSWER_S = 5.0
#: Seconds that `submit` and `continue_from` retry: long enough for a service that restarts.
SUBMIT_RETRY_S = 30.0


class Client(ExperimentMethods, TrialMethods, InstallationMethods):
    """A client of one Rung service, for `with` blocks; `close` it otherwise.

    Methods raise a subclass of RungError: ValidationFailedError with every problem of a spec, NotFoundError,
    UnreachableError where no service answers, and so on. An argument of a wrong type raises TypeError.

    `revision`, where a method has it, is the experiment's revision as you last saw it: if the experiment was changed
    since, nothing is done and PreconditionFailedError is raised.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        watch_retry_s: float = WATCH_RETRY_S,
        submit_retry_s: float = SUBMIT_RETRY_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`token` is by default the one that belongs to this URL: that of RUNG_TOKEN, of `rung login` or of the running
        `rung up`. An empty one sends none.

        `timeout_s` is for one request and its whole answer.

        `watch_retry_s` is how long `watch`, `wait` and `follow_logs` keep retrying while the service is unreachable,
        `submit_retry_s` how long `submit` and `continue_from` do.
        """
        self.credential = Credential(token or "", "argument" if token else "none")
        if token is None and isinstance(url, str):
            self.credential = find_credential(url)
        self._transport = HttpTransport(url, self.credential.token, timeout_s, transport)
        self.identity = IdentityClient(self._transport)
        self.pools = PoolsClient(self._transport)
        self.accounting = AccountingClient(self._transport)
        self.webhooks = WebhookClient(self._transport)
        self._watch_retry_s = watch_retry_s
        self._submit_retry_s = submit_retry_s
        self.url = self._transport.url

    def follow_logs(
        self,
        experiment_id: str,
        *,
        trial: int | None = None,
        attempt: int | None = None,
        until_end: bool = True,
        interval_s: float = 1.0,
        waiting: Waiting | None = None,
    ) -> Iterator[LogChunk]:
        """The chunks of a log from its beginning, until nothing more will come.

        Without `trial` or `attempt` it waits for the first driver, and continues with each that replaces it, until
        the experiment is inactive. With `until_end` False it stops at what is written now. Raises NotFoundError where
        there is no log and none will come. `waiting` is as in `watch`.
        """
        _check_interval(interval_s)
        if not until_end:
            yield from read_log(self, experiment_id, trial=trial, attempt=attempt)
            return
        follower = LogFollower(self, experiment_id, trial=trial, attempt=attempt)
        while (found := retry(follower.poll, self._watch_retry_s, waiting=waiting)) is not DONE:
            if found is WAIT:
                time.sleep(interval_s)
            else:
                yield found

    def watch(
        self,
        experiment_id: str,
        interval_s: float = 0.5,
        *,
        waiting: Waiting | None = None,
    ) -> Iterator[ExperimentView]:
        """The experiment now and after each interval, until it has ended or is paused.

        While the service is unreachable, `waiting` is called before each new try with the error and with the seconds
        that `watch` keeps trying. Then the error is raised.
        """
        _check_interval(interval_s)
        address = experiment_path(experiment_id)
        while True:
            timeouts = iter((FIRST_ANSWER_S,))

            def refresh(timeouts: Iterator[float] = timeouts) -> ExperimentView:
                return self._transport.get(ExperimentView, address, timeout_s=next(timeouts, None))

            view = retry(refresh, self._watch_retry_s, waiting=waiting)
            yield view
            if view.state not in ACTIVE:
                return
            time.sleep(interval_s)

    def wait(self, experiment_id: str, timeout_s: float | None = None, interval_s: float = 0.5) -> ExperimentView:
        """The experiment once it has ended or is paused. Raises TimeoutError after `timeout_s`."""
        begun = time.monotonic()
        for view in self.watch(experiment_id, interval_s):
            if view.state in ACTIVE and timeout_s is not None and time.monotonic() - begun > timeout_s:
                raise TimeoutError(f"experiment {experiment_id} is {view.state} after {timeout_s:g} s")
        return view

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_interval(interval_s: float) -> None:
    if not interval_s > 0:
        raise invalid("interval_s", "must be positive", interval_s)
