"""Stored specs: how documents that were accepted once are read back, from a database, a journal or a trial's folder.

What was stored stays readable: the models upgrade documents of version 1, and no cross-field rule judges them. The
service and the workers read stored documents with these functions only; a test checks that. Use `validation.validate`
for what a person submits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter

from search_spaces.controls import Controls
from search_spaces.experiment import ExperimentSpec, TrialSpec
from search_spaces.layout import CheckpointPolicy
from search_spaces.objective import Objective
from search_spaces.resources import Resources
from search_spaces.searchers import Searcher
from search_spaces.searchers.base import SearcherSpec

M = TypeVar("M", bound=BaseModel)
Document = dict[str, Any] | str | bytes


@dataclass(frozen=True)
class StoredSpec:
    """The parts of a stored spec that lists and the scheduler read, without its search space.

    Each part is read by itself, so that one that this version cannot read costs nobody the others. Unknown fields are
    ignored at every depth. Reading a part raises ValidationError where this version cannot read it.
    """

    document: Mapping[str, Any]

    @property
    def labels(self) -> tuple[str, ...]:
        part: tuple[str, ...] = self._read(tuple[str, ...], "labels", ())
        return part

    @property
    def searcher(self) -> SearcherSpec:
        part: SearcherSpec = self._read(Searcher, "searcher", "tpe")
        return part

    @property
    def objective(self) -> Objective:
        part: Objective = self._read(Objective, "objective", {})
        return part

    @property
    def resources(self) -> Resources:
        part: Resources = self._read(Resources, "resources", {})
        return part

    @property
    def checkpoints(self) -> CheckpointPolicy:
        part: CheckpointPolicy = self._read(CheckpointPolicy, "checkpoints", "best")
        return part

    def _read(self, part: Any, name: str, default: Any) -> Any:
        return _adapter(part).validate_python(self.document.get(name, default), extra="ignore")


def read_spec(document: Document) -> ExperimentSpec:
    """A stored experiment spec. Raises ValidationError for one that this version cannot read."""
    return _read(ExperimentSpec, document)


def read_trial_spec(document: Document) -> TrialSpec:
    """A stored trial spec. Raises ValidationError for one that this version cannot read."""
    return _read(TrialSpec, document)


def read_controls(document: Document) -> Controls:
    """Stored controls. Raises ValidationError for those that this version cannot read."""
    return _read(Controls, document)


@cache
def _adapter(part: Any) -> TypeAdapter[Any]:
    return TypeAdapter(part)


def _read(model: type[M], document: Document) -> M:
    return model.model_validate(document) if isinstance(document, dict) else model.model_validate_json(document)
