"""Client: the SDK. Every address of the REST interface as a method, and its failures as `service.contract.errors`.

    with Client("http://127.0.0.1:8080") as rung:
        experiment = rung.submit({"name": "first"})
        print(rung.wait(experiment.id).best)

Owns the addresses and what is sent to them; how it is sent is in `wire`. It must not know terminals, nor the database.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, overload
from urllib.parse import quote
from uuid import uuid4

import httpx

from search_spaces.experiment import TrialSpec
from search_spaces.protocol import API_PREFIX
from service.client import log_follower
from service.client.transport import PAGE, HttpTransport, UnreachableError
from service.contract.errors import UnavailableError
from service.contract.schemas import (
    ClusterStatus,
    Curves,
    DiskUse,
    ExperimentPage,
    ExperimentSummary,
    ExperimentView,
    LogChunk,
    Preset,
    PresetName,
    Readiness,
    TrialPage,
    TrialView,
    ValidationResult,
)
from service.contract.states import ACTIVE, State

__all__ = ["PAGE", "Client", "UnreachableError"]

MERGE_PATCH = "application/merge-patch+json"
#: Seconds that `watch` bears a service that is away: experiments go on without it.
PATIENCE_S = 60.0
#: Seconds that `submit` and `continue_from` do: long enough for a service that is started again.
SUBMIT_PATIENCE_S = 30.0


class Client:
    """One service. Methods raise `RungError`: `ValidationFailedError` with the problems of a spec, `NotFoundError`,
    `UnreachableError`, ...
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._transport = HttpTransport(url, token, timeout_s, transport)
        self.url = self._transport.url

    @overload
    def submit(self, spec: Mapping[str, Any] | str | Path, validate_only: Literal[False] = False) -> ExperimentView: ...

    @overload
    def submit(self, spec: Mapping[str, Any] | str | Path, validate_only: Literal[True]) -> ValidationResult: ...

    def submit(
        self, spec: Mapping[str, Any] | str | Path, validate_only: bool = False
    ) -> ExperimentView | ValidationResult:
        """Queue an experiment, or only check it. `spec` is a mapping, YAML text, or a file.

        Raises ValidationFailedError.

        A request whose answer is lost is sent again for SUBMIT_PATIENCE_S from then on, under a key by which the
        service knows it: exactly one experiment comes of one call that returns.
        """
        body, media_type = _body(spec)
        address = f"{API_PREFIX}/experiments"
        if validate_only:
            checked = self._transport.send("POST", address, {"validate_only": True}, body, media_type)
            return self._transport.parse_response(ValidationResult, checked)
        return self._make(address, body, media_type)

    def list(
        self,
        *,
        state: State | str | None = None,
        project: str | None = None,
        name: str | None = None,
        label: str | None = None,
        archived: bool | None = False,
        limit: int | None = None,
    ) -> Iterator[ExperimentSummary]:
        """Experiments, the newest first, page by page as they are asked for. `archived` is None for all."""
        hidden = "all" if archived is None else str(archived).lower()
        query = {"state": state, "project": project, "name": name, "label": label, "archived": hidden}
        for page in self._transport.pages(ExperimentPage, f"{API_PREFIX}/experiments", query, limit):
            yield from page.items

    def get(self, experiment_id: str) -> ExperimentView:
        return self._transport.get(ExperimentView, _experiment(experiment_id))

    def pause(self, experiment_id: str, *, revision: int | None = None) -> ExperimentView:
        """Have an experiment let go of its slots and keep every epoch. Raises ConflictError when it has ended.

        `revision`, here and below: do it only to the experiment as it was seen; raises PreconditionFailed else.
        """
        return self._post(experiment_id, "pause", revision)

    def resume(self, experiment_id: str, *, revision: int | None = None) -> ExperimentView:
        """Queue a paused or failed experiment again.

        Raises ConflictError while it is pausing, and when it was canceled.
        """
        return self._post(experiment_id, "resume", revision)

    def cancel(self, experiment_id: str, *, revision: int | None = None) -> ExperimentView:
        """Ask for the end of an experiment; its trials end within seconds. Raises ConflictError when it has ended."""
        return self._post(experiment_id, "cancel", revision)

    def cancel_trial(self, experiment_id: str, trial: int, *, revision: int | None = None) -> TrialView:
        """Ask for the end of one trial. Raises ConflictError when it has ended. `revision` is the experiment's."""
        address = f"{_trial(experiment_id, trial)}/cancel"
        return self._transport.parse_response(
            TrialView, self._transport.send("POST", address, headers=_if_match(revision))
        )

    def change(
        self,
        experiment_id: str,
        patch: Mapping[str, Any] | None = None,
        /,
        *,
        revision: int | None = None,
        **controls: Any,
    ) -> ExperimentView:
        """Change some of `search_spaces.controls`: `change(id, num_samples=40, budget={"slot_hours": None})`, or the
        same as one mapping. None stands for a field's default. Raises ValidationFailedError.
        """
        address, headers = _experiment(experiment_id), _if_match(revision)
        body = json.dumps({**(patch or {}), **controls}).encode()
        changed = self._transport.send("PATCH", address, body=body, media_type=MERGE_PATCH, headers=headers)
        return self._transport.parse_response(ExperimentView, changed)

    def continue_from(self, experiment_id: str, patch: Mapping[str, Any] | None = None) -> ExperimentView:
        """A new experiment that takes over another's trials. `patch` is merged into its spec.

        Raises ValidationFailedError for what must stay, ConflictError while the other runs.

        As with `submit`, one call that returns makes exactly one experiment.
        """
        return self._make(f"{_experiment(experiment_id)}/continue", json.dumps(dict(patch or {})).encode(), MERGE_PATCH)

    def archive(self, experiment_id: str, *, revision: int | None = None) -> ExperimentView:
        """Hide an experiment that has ended or is paused from lists."""
        return self._post(experiment_id, "archive", revision)

    def unarchive(self, experiment_id: str, *, revision: int | None = None) -> ExperimentView:
        """Show it in lists again."""
        return self._post(experiment_id, "unarchive", revision)

    def delete(self, experiment_id: str, *, revision: int | None = None) -> ExperimentView:
        """Remove an experiment that has ended or is paused, with its files, runs and models, for good.

        It is DELETING until all is gone; then `get` raises NotFound. MLflow only hides runs, until `mlflow gc`.
        """
        deleted = self._transport.send("DELETE", _experiment(experiment_id), headers=_if_match(revision))
        return self._transport.parse_response(ExperimentView, deleted)

    def trials(
        self, experiment_id: str, *, sort: str | None = None, state: str | None = None, limit: int | None = None
    ) -> Iterator[TrialView]:
        """Trials sorted by a metric or field, `-` before it for the largest first."""
        query = {"sort": sort, "state": state}
        for page in self._transport.pages(TrialPage, f"{_experiment(experiment_id)}/trials", query, limit):
            yield from page.items

    def trial(self, experiment_id: str, trial: int) -> TrialView:
        return self._transport.get(TrialView, _trial(experiment_id, trial))

    def trial_spec(self, experiment_id: str, trial: int) -> TrialSpec:
        """The configuration that a trial ran, without domains."""
        return self._transport.get(TrialSpec, f"{_trial(experiment_id, trial)}/spec")

    def curves(self, experiment_id: str, trial: int) -> Curves:
        """Every metric of a trial by epoch."""
        return self._transport.get(Curves, f"{_trial(experiment_id, trial)}/curves")

    def logs(
        self,
        experiment_id: str,
        *,
        trial: int | None = None,
        attempt: int | None = None,
        offset: int = 0,
        limit: int | None = None,
    ) -> LogChunk:
        """A piece of what a driver said (the newest, or that of an attempt), or a trial. `offset` and `limit` in bytes.

        Ask again from `next_offset` until `complete`. Raises NotFoundError where there is none yet.
        """
        of = f"/trials/{int(trial)}" if trial is not None else ""
        query = {"attempt": attempt, "offset": offset, "limit": limit}
        return self._transport.get(LogChunk, f"{_experiment(experiment_id)}{of}/logs", query)

    def follow_logs(
        self,
        experiment_id: str,
        *,
        trial: int | None = None,
        attempt: int | None = None,
        until_end: bool = True,
        interval_s: float = 1.0,
    ) -> Iterator[LogChunk]:
        """The pieces of a log from its beginning to what there is now; with `until_end` until nothing more will come.

        Then it waits for the first driver, goes on with each that replaces it until the experiment is at rest, and
        bears a service that is away for up to PATIENCE_S. With `trial` or `attempt`: until that has ended.
        """
        if until_end:
            return log_follower.follow(self, experiment_id, trial, attempt, interval_s, PATIENCE_S)
        return log_follower.whole(self, experiment_id, trial, attempt)

    def storage(self, experiment_id: str) -> DiskUse:
        """What an experiment holds on the disk, by kind of file."""
        return self._transport.get(DiskUse, f"{_experiment(experiment_id)}/storage")

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of a spec."""
        return self._transport.decode_object(self._transport.send("GET", f"{API_PREFIX}/schema"))

    def presets(self) -> tuple[PresetName, ...]:
        return tuple(
            self._transport.parse_as(PresetName, item)
            for item in self._transport.decode_json(self._transport.send("GET", f"{API_PREFIX}/presets"))
        )

    def preset(self, name: str) -> Preset:
        """A preset as YAML with its comments, and completed. Raises NotFoundError naming the nearest."""
        return self._transport.get(Preset, f"{API_PREFIX}/presets/{quote(name, safe='')}")

    def cluster(self) -> ClusterStatus:
        return self._transport.get(ClusterStatus, f"{API_PREFIX}/cluster")

    def health(self) -> Readiness:
        """What of the database, Ray and MLflow is there. A service that is not ready answers too."""
        return self._transport.parse_response(Readiness, self._transport.send("GET", "/readyz", accept=503))

    def ping(self) -> None:
        """Raise UnreachableError when nobody answers."""
        self._transport.send("GET", "/healthz")

    def watch(self, experiment_id: str, interval_s: float = 0.5) -> Iterator[ExperimentView]:
        """The experiment now and after each interval, until it has ended or is paused: then a person must act.

        Bears a service that is away for up to PATIENCE_S.
        """
        answered = time.monotonic()
        while True:
            try:
                view = self.get(experiment_id)
            except UnavailableError:
                if time.monotonic() - answered > PATIENCE_S:
                    raise
            else:
                answered = time.monotonic()
                yield view
                if view.state not in ACTIVE:
                    return
            time.sleep(interval_s)

    def wait(self, experiment_id: str, timeout_s: float | None = None, interval_s: float = 0.5) -> ExperimentView:
        """The experiment once it has ended or is paused. Raises TimeoutError."""
        begun = time.monotonic()
        for view in self.watch(experiment_id, interval_s):
            if view.state in ACTIVE and timeout_s is not None and time.monotonic() - begun > timeout_s:
                raise TimeoutError(f"experiment {experiment_id} is {view.state} after {timeout_s:g} s")
        return view

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make(self, address: str, body: bytes, media_type: str) -> ExperimentView:
        """The experiment that comes of a POST, sent again under one key while the service is away."""
        headers = {"Idempotency-Key": str(uuid4())}
        stored = self._transport.send_until_taken(
            SUBMIT_PATIENCE_S, "POST", address, body=body, media_type=media_type, headers=headers
        )
        return self._transport.parse_response(ExperimentView, stored)

    def _post(self, experiment_id: str, verb: str, revision: int | None) -> ExperimentView:
        answer = self._transport.send("POST", f"{_experiment(experiment_id)}/{verb}", headers=_if_match(revision))
        return self._transport.parse_response(ExperimentView, answer)


def _if_match(revision: int | None) -> dict[str, str]:
    return {} if revision is None else {"If-Match": f'"{int(revision)}"'}


def _trial(experiment_id: str, trial: int) -> str:
    return f"{_experiment(experiment_id)}/trials/{int(trial)}"


def _experiment(experiment_id: str) -> str:
    return f"{API_PREFIX}/experiments/{quote(experiment_id, safe='')}"


def _body(spec: Mapping[str, Any] | str | Path) -> tuple[bytes, str]:
    if isinstance(spec, Mapping):
        return json.dumps(spec).encode(), "application/json"
    if isinstance(spec, str):
        return spec.encode(), "application/yaml"
    return spec.read_bytes(), "application/json" if spec.suffix == ".json" else "application/yaml"
