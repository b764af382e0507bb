"""Client: the SDK. Each route of the REST API is a method; its errors are in `service.contract.errors`.

    with Client("http://127.0.0.1:8080") as client:
        experiment = client.submit({"name": "first"})
        print(client.wait(experiment.id).best)

Owns the addresses and what is sent to them; how requests are sent is in `transport`, how values are encoded in
`encoding`, and when a request is tried again in `retry`. It must not know terminals, nor the database.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, Self, overload
from uuid import uuid4

import httpx

from search_spaces.datasets.report import DataReport
from search_spaces.experiment import TrialSpec
from search_spaces.insight import Insight
from search_spaces.protocol import API_PREFIX
from service.client.accounting import AccountingClient
from service.client.credentials import Credential, find_credential
from service.client.encoding import (
    YAML,
    SpecInput,
    encode_json,
    encode_spec,
    invalid,
    path_part,
    preset_name,
    whole_number,
)
from service.client.identity import IdentityClient
from service.client.log_follower import DONE, WAIT, LogFollower, read_log
from service.client.pools import PoolsClient
from service.client.retry import Waiting, retry
from service.client.transport import HttpTransport
from service.client.webhooks import WebhookClient
from service.contract.checkup import Checkup
from service.contract.comparison import MOST_EXPERIMENTS, Comparison
from service.contract.queue import Queue
from service.contract.requests import IDEMPOTENCY_KEY, MERGE_PATCH
from service.contract.schemas import (
    ClusterStatus,
    Curves,
    DiskUse,
    ExperimentPage,
    ExperimentSummary,
    ExperimentView,
    Health,
    LogChunk,
    Preset,
    PresetName,
    Readiness,
    TrialPage,
    TrialView,
    ValidationResult,
)
from service.contract.states import ACTIVE, State

#: Seconds that `watch` and `follow_logs` retry: experiments run without the service.
WATCH_RETRY_S = 60.0
#: Timeout of the first try of a refresh of `watch`: a service that hangs is reported after this time. Later ones take
#: the client's own timeout, for a service that is only slow.
FIRST_ANSWER_S = 5.0
#: For the service to examine its parts, which takes it six seconds at most.
CHECKUP_S = 15.0
#: Seconds that `submit` and `continue_from` retry: long enough for a service that restarts.
SUBMIT_RETRY_S = 30.0


class Client:
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

    @overload
    def submit(
        self, spec: SpecInput, validate_only: Literal[False] = False, *, team: str | None = None
    ) -> ExperimentView: ...

    @overload
    def submit(self, spec: SpecInput, validate_only: Literal[True], *, team: str | None = None) -> ValidationResult: ...

    def submit(
        self, spec: SpecInput, validate_only: bool = False, *, team: str | None = None
    ) -> ExperimentView | ValidationResult:
        """Queue an experiment, or only validate its spec.

        `spec` is an ExperimentSpec, a mapping, a path to a YAML or JSON file, YAML text, or `preset:NAME`. Text without
        a `field: value` in it is taken for a path. Raises ValidationFailedError with every problem of the spec, and
        OSError where the file cannot be read. `team` must be given by a member of several teams.

        A request whose answer is lost is sent again with the same idempotency key, so that one call makes one
        experiment.
        """
        name = preset_name(spec)
        body, media_type = encode_spec(spec) if name is None else (self.preset(name).yaml.encode(), YAML)
        address = f"{API_PREFIX}/experiments"
        if validate_only:
            query = {"validate_only": True, "team": team}
            checked = self._transport.send("POST", address, query, body, media_type)
            return self._transport.parse_response(ValidationResult, checked)
        return self._create(address, body, media_type, team=team)

    def list(
        self,
        *,
        state: State | str | None = None,
        project: str | None = None,
        name: str | None = None,
        label: str | None = None,
        archived: bool | None = False,
        team: str | None = None,
        owner: str | None = None,
        limit: int | None = None,
    ) -> Iterator[ExperimentSummary]:
        """Experiments, the newest first. `name` matches a part of the name, `owner` is a login. `archived` None lists
        all of them.

        Pages are requested as you iterate.
        """
        hidden = "all" if archived is None else str(archived).lower()
        query = {"state": state, "project": project, "name": name, "label": label, "archived": hidden}
        query |= {"team": team, "owner": owner}
        for page in self._transport.pages(ExperimentPage, f"{API_PREFIX}/experiments", query, limit):
            yield from page.items

    def get(self, experiment_id: str) -> ExperimentView:
        """One experiment. Raises NotFoundError."""
        return self._transport.get(ExperimentView, _experiment(experiment_id))

    def pause(self, experiment_id: str, *, revision: int | None = None) -> ExperimentView:
        """Release an experiment's slots and keep every finished epoch. Raises ConflictError if it has ended."""
        return self._post(experiment_id, "pause", revision)

    def resume(self, experiment_id: str, *, revision: int | None = None) -> ExperimentView:
        """Queue a paused or failed experiment again. Raises ConflictError while it pauses, and if it was canceled."""
        return self._post(experiment_id, "resume", revision)

    def cancel(self, experiment_id: str, *, revision: int | None = None) -> ExperimentView:
        """End an experiment; its trials usually end within seconds. Raises ConflictError if it has ended."""
        return self._post(experiment_id, "cancel", revision)

    def cancel_trial(self, experiment_id: str, trial: int, *, revision: int | None = None) -> TrialView:
        """End one trial. Raises ConflictError if it has ended. `revision` is the experiment's."""
        address = f"{_trial(experiment_id, trial)}/cancel"
        canceled = self._transport.send("POST", address, headers=_if_match(revision))
        return self._transport.parse_response(TrialView, canceled)

    def change(
        self,
        experiment_id: str,
        patch: Mapping[str, Any] | None = None,
        /,
        *,
        revision: int | None = None,
        **controls: Any,
    ) -> ExperimentView:
        """Change priority, num_samples, max_concurrent_trials, max_restarts, goal or budget of an experiment.

        For example `change(id, num_samples=40, budget={"slot_hours": None})`, or the same as one mapping. None
        restores a field's default. Raises ValidationFailedError.
        """
        body = encode_json({**_patch(patch), **controls}, "patch")
        headers = _if_match(revision)
        changed = self._transport.send(
            "PATCH", _experiment(experiment_id), body=body, media_type=MERGE_PATCH, headers=headers
        )
        return self._transport.parse_response(ExperimentView, changed)

    def continue_from(
        self,
        experiment_id: str,
        patch: Mapping[str, Any] | None = None,
        *,
        revision: int | None = None,
        team: str | None = None,
    ) -> ExperimentView:
        """Queue a new experiment that starts from the trials of one that has ended or is paused.

        `patch` is merged into its spec. `team` is as in `submit`. Raises ValidationFailedError for a field that must
        stay the same, and ConflictError while the source runs. As with `submit`, one call makes one experiment.
        """
        body = encode_json(_patch(patch), "patch")
        return self._create(f"{_experiment(experiment_id)}/continue", body, MERGE_PATCH, _if_match(revision), team)

    def archive(self, experiment_id: str, *, revision: int | None = None) -> ExperimentView:
        """Hide an experiment that has ended or is paused from lists."""
        return self._post(experiment_id, "archive", revision)

    def unarchive(self, experiment_id: str, *, revision: int | None = None) -> ExperimentView:
        """Show an archived experiment in lists again."""
        return self._post(experiment_id, "unarchive", revision)

    def delete(self, experiment_id: str, *, revision: int | None = None) -> ExperimentView:
        """Delete an experiment that has ended or is paused, with its files, MLflow runs and models, for good.

        The experiment is DELETING until everything is gone; then `get` raises NotFoundError. MLflow only marks runs as
        deleted; `mlflow gc` removes them.
        """
        deleted = self._transport.send("DELETE", _experiment(experiment_id), headers=_if_match(revision))
        return self._transport.parse_response(ExperimentView, deleted)

    def trials(
        self,
        experiment_id: str,
        *,
        sort: str | None = None,
        state: str | None = None,
        limit: int | None = None,
        replicates: bool = False,
    ) -> Iterator[TrialView]:
        """The trials of an experiment. `sort` is a metric or a field, with `-` before it for the largest first.

        With `replicates`, the runs of the finalists with fresh seeds instead.
        """
        query = {"sort": sort, "state": state, "replicates": "true" if replicates else None}
        for page in self._transport.pages(TrialPage, f"{_experiment(experiment_id)}/trials", query, limit):
            yield from page.items

    def trial(self, experiment_id: str, trial: int) -> TrialView:
        """One trial, by its number from 0. Raises NotFoundError."""
        return self._transport.get(TrialView, _trial(experiment_id, trial))

    def trial_spec(self, experiment_id: str, trial: int) -> TrialSpec:
        """The configuration that a trial runs: every hyperparameter has a value."""
        return self._transport.get(TrialSpec, f"{_trial(experiment_id, trial)}/spec")

    def curves(self, experiment_id: str, trial: int) -> Curves:
        """Every metric of a trial by epoch."""
        return self._transport.get(Curves, f"{_trial(experiment_id, trial)}/curves")

    def compare(self, *experiment_ids: str) -> Comparison:
        """What differs between experiments, in their specs and results, with links to MLflow.

        Takes 2 to 10 different ids. Raises NotFoundError.
        """
        if not 2 <= len(set(experiment_ids)) == len(experiment_ids) <= MOST_EXPERIMENTS:
            raise invalid("experiment_ids", f"must be 2 to {MOST_EXPERIMENTS} different ids", list(experiment_ids))
        return self._transport.get(Comparison, f"{API_PREFIX}/compare", {"id": list(experiment_ids)})

    def logs(
        self,
        experiment_id: str,
        *,
        trial: int | None = None,
        attempt: int | None = None,
        offset: int = 0,
        limit: int | None = None,
    ) -> LogChunk:
        """A chunk of the log of the newest driver, of the driver of an attempt, or of a trial.

        `offset` and `limit` are in bytes. Ask again from `next_offset` until `complete`. Raises NotFoundError where
        there is no log yet.
        """
        of = _experiment(experiment_id) if trial is None else _trial(experiment_id, trial)
        query = {"attempt": attempt, "offset": offset, "limit": limit}
        return self._transport.get(LogChunk, f"{of}/logs", query)

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

    def storage(self, experiment_id: str) -> DiskUse:
        """The disk space that an experiment uses, by kind of file."""
        return self._transport.get(DiskUse, f"{_experiment(experiment_id)}/storage")

    def data(self, experiment_id: str) -> DataReport:
        """What Rung knows of an experiment's data. Raises NotFoundError before a trial has read them."""
        return self._transport.get(DataReport, f"{_experiment(experiment_id)}/data")

    def insight(self, experiment_id: str) -> Insight:
        """Why the winner of a completed experiment won, how sure that is, and what to try next.

        Raises NotFoundError before the experiment is completed, and where an older version of Rung completed it.
        """
        return self._transport.get(Insight, f"{_experiment(experiment_id)}/insight")

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of a spec."""
        return self._transport.decode_object(self._transport.send("GET", f"{API_PREFIX}/schema"))

    def presets(self) -> tuple[PresetName, ...]:
        """The ready-made specs."""
        items = self._transport.decode_json(self._transport.send("GET", f"{API_PREFIX}/presets"))
        return tuple(self._transport.parse_as(PresetName, item) for item in items)

    def preset(self, name: str) -> Preset:
        """A preset as YAML with its comments, and with every default written out. Raises NotFoundError."""
        return self._transport.get(Preset, f"{API_PREFIX}/presets/{path_part(name, 'name')}")

    def cluster(self) -> ClusterStatus:
        """The nodes of the cluster, and how many slots each experiment has."""
        path = f"{API_PREFIX}/cluster"
        page = self._transport.get(ClusterStatus, path)
        shares, cursor = page.shares, page.next_cursor
        while cursor is not None:
            further = self._transport.get(ClusterStatus, path, {"cursor": cursor})
            shares, cursor = [*shares, *further.shares], further.next_cursor
        return page.model_copy(update={"shares": shares, "next_cursor": None})

    def queue(self, limit: int = 50) -> Queue:
        """The first `limit` experiments that wait, what each waits for, and when it will probably start."""
        path = f"{API_PREFIX}/queue"
        page = self._transport.get(Queue, path, {"limit": min(limit, 1000)})
        items, cursor = page.items, page.next_cursor
        while cursor is not None and len(items) < limit:
            further = self._transport.get(Queue, path, {"cursor": cursor, "limit": min(limit - len(items), 1000)})
            items, cursor = [*items, *further.items], further.next_cursor
        return page.model_copy(update={"items": items, "next_cursor": cursor})

    def health(self) -> Readiness:
        """Whether the database, Ray and MLflow answer. Returns also where the service is not ready."""
        return self._transport.parse_response(Readiness, self._transport.send("GET", "/readyz", accept=503))

    def checkup(self) -> Checkup:
        """What the service sees of each part of the installation, and what to do."""
        return self._transport.get(Checkup, f"{API_PREFIX}/checkup", timeout_s=CHECKUP_S)

    def checkup_nodes(self) -> Checkup:
        """What each node of the cluster has and sees. Runs a short job on the cluster, for three minutes at most."""
        return self._transport.parse_response(Checkup, self._transport.send("POST", f"{API_PREFIX}/checkup/nodes"))

    def ping(self) -> None:
        """Raise UnreachableError if the service does not answer, or if it is not a Rung service."""
        self._transport.get(Health, "/healthz")

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
        address = _experiment(experiment_id)
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

    def _create(
        self,
        address: str,
        body: bytes,
        media_type: str,
        headers: Mapping[str, str] | None = None,
        team: str | None = None,
    ) -> ExperimentView:
        """The experiment that a POST creates, sent again with one idempotency key while the service is unreachable."""
        headers = {**(headers or {}), IDEMPOTENCY_KEY: str(uuid4())}

        def send() -> httpx.Response:
            return self._transport.send("POST", address, {"team": team}, body, media_type, headers=headers)

        return self._transport.parse_response(ExperimentView, retry(send, self._submit_retry_s))

    def _post(self, experiment_id: str, action: str, revision: int | None) -> ExperimentView:
        answer = self._transport.send("POST", f"{_experiment(experiment_id)}/{action}", headers=_if_match(revision))
        return self._transport.parse_response(ExperimentView, answer)


def _patch(patch: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if patch is not None and not isinstance(patch, Mapping):
        raise TypeError(f"patch must be a mapping (got {type(patch).__name__})")
    return patch or {}


def _if_match(revision: int | None) -> dict[str, str]:
    return {} if revision is None else {"If-Match": f'"{whole_number(revision, "revision")}"'}


def _trial(experiment_id: str, trial: int) -> str:
    return f"{_experiment(experiment_id)}/trials/{whole_number(trial, 'trial')}"


def _experiment(experiment_id: str) -> str:
    return f"{API_PREFIX}/experiments/{path_part(experiment_id, 'experiment_id')}"


def _check_interval(interval_s: float) -> None:
    if not interval_s > 0:
        raise invalid("interval_s", "must be positive", interval_s)
