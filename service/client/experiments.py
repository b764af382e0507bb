"""Experiment methods: the routes about experiments, those of `Client` itself. Owns what is sent to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, overload
from uuid import uuid4

import httpx

from search_spaces.datasets.report import DataReport
from search_spaces.insight import Insight
from search_spaces.protocol import API_PREFIX
from service.client.addresses import experiment_path, if_match, preset_path
from service.client.encoding import YAML, SpecInput, encode_json, encode_spec, invalid, preset_name
from service.client.retry import retry
from service.client.transport import HttpTransport
from service.contract.comparison import MOST_EXPERIMENTS, Comparison
from service.contract.requests import IDEMPOTENCY_KEY, MERGE_PATCH
from service.contract.schemas import (
    DiskUse,
    ExperimentPage,
    ExperimentSummary,
    ExperimentView,
    Preset,
    ValidationResult,
)
from service.contract.states import State


class ExperimentMethods:
    """One request each; only those that create an experiment are sent again."""

    _transport: HttpTransport
    _submit_retry_s: float

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
        body, media_type = encode_spec(spec) if name is None else (self._read_preset(name), YAML)
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
        return self._transport.get(ExperimentView, experiment_path(experiment_id))

    def pause(self, experiment_id: str, *, revision: int | None = None) -> ExperimentView:
        """Release an experiment's slots and keep every finished epoch. Raises ConflictError if it has ended."""
        return self._post(experiment_id, "pause", revision)

    def resume(self, experiment_id: str, *, revision: int | None = None) -> ExperimentView:
        """Queue a paused or failed experiment again. Raises ConflictError while it pauses, and if it was canceled."""
        return self._post(experiment_id, "resume", revision)

    def cancel(self, experiment_id: str, *, revision: int | None = None) -> ExperimentView:
        """End an experiment; its trials usually end within seconds. Raises ConflictError if it has ended."""
        return self._post(experiment_id, "cancel", revision)

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
        headers = if_match(revision)
        changed = self._transport.send(
            "PATCH", experiment_path(experiment_id), body=body, media_type=MERGE_PATCH, headers=headers
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
        return self._create(f"{experiment_path(experiment_id)}/continue", body, MERGE_PATCH, if_match(revision), team)

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
        deleted = self._transport.send("DELETE", experiment_path(experiment_id), headers=if_match(revision))
        return self._transport.parse_response(ExperimentView, deleted)

    def compare(self, *experiment_ids: str) -> Comparison:
        """What differs between experiments, in their specs and results, with links to MLflow.

        Takes 2 to 10 different ids. Raises NotFoundError.
        """
        if not 2 <= len(set(experiment_ids)) == len(experiment_ids) <= MOST_EXPERIMENTS:
            raise invalid("experiment_ids", f"must be 2 to {MOST_EXPERIMENTS} different ids", list(experiment_ids))
        return self._transport.get(Comparison, f"{API_PREFIX}/compare", {"id": list(experiment_ids)})

    def storage(self, experiment_id: str) -> DiskUse:
        """The disk space that an experiment uses, by kind of file."""
        return self._transport.get(DiskUse, f"{experiment_path(experiment_id)}/storage")

    def data(self, experiment_id: str) -> DataReport:
        """What Rung knows of an experiment's data. Raises NotFoundError before a trial has read them."""
        return self._transport.get(DataReport, f"{experiment_path(experiment_id)}/data")

    def insight(self, experiment_id: str) -> Insight:
        """Why the winner of a completed experiment won, how sure that is, and what to try next.

        Raises ConflictError for an experiment that is not completed, and NotFoundError where it was completed without
        an insight, as by an older version of Rung.
        """
        return self._transport.get(Insight, f"{experiment_path(experiment_id)}/insight")

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
        answer = self._transport.send("POST", f"{experiment_path(experiment_id)}/{action}", headers=if_match(revision))
        return self._transport.parse_response(ExperimentView, answer)

    def _read_preset(self, name: str) -> bytes:
        return self._transport.get(Preset, preset_path(name)).yaml.encode()


def _patch(patch: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if patch is not None and not isinstance(patch, Mapping):
        raise TypeError(f"patch must be a mapping (got {type(patch).__name__})")
    return patch or {}
