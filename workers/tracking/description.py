"""Description: what MLflow's runs say of an experiment that does not change while it runs.

Owns the names of runs, the parameters of the experiment's run, their order, and the note. A parameter cannot change in
MLflow, so what a person may change is not among them. It must not know MLflow's client, nor the journal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from search_spaces.controls import SPEC_PATHS
from search_spaces.experiment import ExperimentSpec
from search_spaces.mlflow_view import trials_of, view_key, view_path, view_tag
from search_spaces.phrases import counted, listed
from search_spaces.protocol import API_PREFIX, LaunchConfig
from search_spaces.replicates import is_replicate, replicated
from search_spaces.sampling import NOT_APPLICABLE
from search_spaces.searched import described, importance_order, searched_parameters, short_name

NOTE_CHARACTERS = 5000
NAME_CHARACTERS = 100  # of a trial's run: legends of charts show it
MOST_NAMES = 20  # of hyperparameters in the note
#: MLflow's client sends more parameters than this in several requests.
MOST_PARAMETERS = 100
VALUE_CHARACTERS = 500  # of a parameter of the experiment's run: MLflow takes more, but shows it in a table
#: Before the names of a search space: the trials' runs have parameters of the same names, with numbers as values.
SPACE = "space."
#: Parts of the spec that are no parameter: other fields of the run have them.
ELSEWHERE = frozenset({"version", "name", "project", "description", "labels", "search_space"})


class Description:
    """Of one experiment."""

    def __init__(self, launch: LaunchConfig, spec: ExperimentSpec) -> None:
        self._launch = launch
        self._spec = spec
        self._document: dict[str, Any] = spec.model_dump(mode="json")
        space = self._document["search_space"]
        self.searched = sorted(searched_parameters(space), key=importance_order)

    def parent_name(self) -> str:
        """With the id: names of experiments need not be unique."""
        return f"{self._spec.name} ({self._launch.experiment_id})"

    def parent_parameters(self) -> dict[str, str]:
        """The search space, what is searched first, and the rest of the spec."""
        space = described(self._document["search_space"])
        changeable = set(SPEC_PATHS.values())
        rest = described({name: value for name, value in self._document.items() if name not in ELSEWHERE})
        parameters = {f"{SPACE}{name}": space[name] for name in self._searched_first(space)} | {
            name: value for name, value in rest.items() if name not in changeable and not name.startswith("budget.")
        }
        return {name: value[:VALUE_CHARACTERS] for name, value in islice(parameters.items(), MOST_PARAMETERS)}

    def trial_parameters(self, parameters: Mapping[str, str | float]) -> dict[str, str]:
        """All of them, what is searched first."""
        return {name: str(parameters[name]) for name in self._searched_first(parameters)}

    def trial_name(self, number: int, parameters: Mapping[str, str]) -> str:
        """`trial-0004 sgd lr=0.05 width=16`: the values of what is searched, as many as fit."""
        name = f"trial-{number:04d}"
        if is_replicate(number):
            trial, index = replicated(number)
            name = f"replicate-{trial:04d}-{index}"
        for searched in self.searched:
            value = parameters.get(searched, NOT_APPLICABLE)
            short = short_name(searched, self.searched)
            part = f" {_figure(value)}" if searched.endswith(".kind") else f" {short}={_figure(value)}"
            if value != NOT_APPLICABLE and len(name + part) <= NAME_CHARACTERS:
                name += part
        return name

    def view(self, parent: str, at_ms: int, important: Sequence[str] = ()) -> str:
        """The tag of MLflow's experiment that has the page of this experiment's trials.

        Its columns and charts begin with the `important` hyperparameters, named as in an insight: a choice of blocks
        without `.kind`.
        """
        first = [one for name in important for one in (name, f"{name}.kind") if one in self.searched]
        searched = [*first, *(name for name in self.searched if name not in first)]
        return view_tag(self.parent_name(), trials_of(parent), self._spec.objective, searched, at_ms)

    def note(self, mlflow_experiment_id: str) -> str:
        """What the experiment is, in Markdown, with links to Rung and to the view of the trials."""
        spec, launch = self._spec, self._launch
        searched = listed((f"`{name}`" for name in self.searched), MOST_NAMES) or "nothing"
        address = f"{launch.service_url.rstrip('/')}{API_PREFIX}/experiments/{launch.experiment_id}"
        key = view_key(launch.experiment_id)
        view = view_path(mlflow_experiment_id, key, launch.mlflow_workspace).removeprefix("/")
        text = (
            f"Experiment `{launch.experiment_id}` of Rung: the searcher `{spec.searcher.kind}` proposes "
            f"{counted(spec.num_samples, 'trial')} of at most {counted(spec.max_epochs, 'epoch')} on "
            f"`{spec.dataset.name}`, compared by `{spec.objective.metric}` ({spec.objective.mode}); "
            f"early stopping: `{spec.early_stopping.kind}`.\n\n"
            f"Searched: {searched}.\n\n"
            f"Each trial is a child of this run. Its state and the reason for its end are the tags `rung.trial_state` "
            f"and `rung.stop_reason`.\n\n"
            f"[Charts of the trials]({view}). [The experiment in Rung]({address}), or "
            f"`rung show {launch.experiment_id}`"
        )
        left = max(0, NOTE_CHARACTERS - len(text) - 2)
        return "\n\n".join(filter(None, (spec.description[:left], text[:NOTE_CHARACTERS])))

    def _searched_first(self, names: Mapping[str, Any]) -> list[str]:
        first = [name for name in self.searched if name in names]
        return first + [name for name in names if name not in set(first)]


def _figure(value: str) -> str:
    """A number with three digits, which tell trials apart; anything else as it is."""
    try:
        number = float(value)
    except ValueError:
        return value
    return str(int(number)) if number.is_integer() and abs(number) < 1e6 else f"{number:.3g}"
