"""Trial methods: the routes about trials, and about the logs of trials and drivers. Owns what is sent to them."""

from __future__ import annotations

from collections.abc import Iterator

from search_spaces.experiment import TrialSpec
from service.client.addresses import experiment_path, if_match, trial_path
from service.client.transport import HttpTransport
from service.contract.schemas import Curves, LogChunk, TrialPage, TrialView


class TrialMethods:
    """One request each, or one for each page."""

    _transport: HttpTransport

    def cancel_trial(self, experiment_id: str, trial: int, *, revision: int | None = None) -> TrialView:
        """End one trial. Raises ConflictError if it has ended. `revision` is the experiment's."""
        address = f"{trial_path(experiment_id, trial)}/cancel"
        canceled = self._transport.send("POST", address, headers=if_match(revision))
        return self._transport.parse_response(TrialView, canceled)

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
        for page in self._transport.pages(TrialPage, f"{experiment_path(experiment_id)}/trials", query, limit):
            yield from page.items

    def trial(self, experiment_id: str, trial: int) -> TrialView:
        """One trial, by its number from 0. Raises NotFoundError."""
        return self._transport.get(TrialView, trial_path(experiment_id, trial))

    def trial_spec(self, experiment_id: str, trial: int) -> TrialSpec:
        """The configuration that a trial runs: every hyperparameter has a value."""
        return self._transport.get(TrialSpec, f"{trial_path(experiment_id, trial)}/spec")

    def curves(self, experiment_id: str, trial: int) -> Curves:
        """Every metric of a trial by epoch."""
        return self._transport.get(Curves, f"{trial_path(experiment_id, trial)}/curves")

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
        of = experiment_path(experiment_id) if trial is None else trial_path(experiment_id, trial)
        query = {"attempt": attempt, "offset": offset, "limit": limit}
        return self._transport.get(LogChunk, f"{of}/logs", query)
