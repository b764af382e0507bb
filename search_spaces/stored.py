"""Stored specs: how documents that were accepted once are read back, from a database, a journal or a trial's folder.

What was stored stays readable: the models upgrade documents of version 1, and no cross-field rule judges them. The
service and the workers read stored documents with these functions only; a test checks that. Use `validation.validate`
for what a person submits.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from search_spaces.checkpoint_policy import CheckpointPolicy
from search_spaces.controls import Controls
from search_spaces.experiment import ExperimentSpec, TrialSpec
from search_spaces.objective import Objective
from search_spaces.resources import Resources
from search_spaces.searchers import Searcher
from search_spaces.searchers.base import SearcherSpec
from search_spaces.upgrade import restore_defaults

M = TypeVar("M", bound=BaseModel)
Document = dict[str, Any] | str | bytes


class ShownObjective(BaseModel):
    """An objective whose metric this version does not know."""

    metric: str
    mode: Literal["min", "max"] = "max"

    @property
    def sign(self) -> int:
        return 1 if self.mode == "max" else -1


class ShownResources(BaseModel):
    """Resources that this version does not allow."""

    cpus_per_trial: float = 1
    gpus_per_trial: float | None = None

    @property
    def gpus(self) -> float | None:
        return self.gpus_per_trial


@dataclass(frozen=True)
class Overview:
    """What people see of a stored spec."""

    labels: tuple[str, ...]
    objective: Objective | ShownObjective
    resources: Resources | ShownResources


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
    def overview(self) -> Overview:
        """What people see of it. Never raises: what this version cannot read is shown as it was stored."""
        return Overview(
            labels=self._show(tuple[str, ...], "labels", ()),
            objective=self._show(Objective, "objective", {}, ShownObjective),
            resources=self._show(Resources, "resources", {}, ShownResources),
        )

    @property
    def checkpoints(self) -> CheckpointPolicy:
        part: CheckpointPolicy = self._read(CheckpointPolicy, "checkpoints", "best")
        return part

    def _read(self, part: Any, name: str, default: Any) -> Any:
        return _adapter(part).validate_python(self.document.get(name, default), extra="ignore")

    def _show(self, part: Any, name: str, default: Any, *others: Any) -> Any:
        """The part, read as the first of several types that can hold it; its default if none can."""
        for one in (part, *others):
            with contextlib.suppress(ValidationError):
                return self._read(one, name, default)
        return _adapter(part).validate_python(default)


def read_spec(document: Document) -> ExperimentSpec:
    """A stored experiment spec. Raises ValidationError for one that this version cannot read."""
    return _read(ExperimentSpec, _restored(document))


def read_trial_spec(document: Document) -> TrialSpec:
    """A stored trial spec. Raises ValidationError for one that this version cannot read."""
    return _read(TrialSpec, _restored(document))


def read_controls(document: Document) -> Controls:
    """Stored controls. Raises ValidationError for those that this version cannot read."""
    return _read(Controls, document)


@cache
def _adapter(part: Any) -> TypeAdapter[Any]:
    return TypeAdapter(part)


def _restored(document: Document) -> Document:
    if not isinstance(document, dict):
        with contextlib.suppress(ValueError, RecursionError):  # otherwise the model reports what is wrong with the text
            parsed = json.loads(document)
            document = parsed if isinstance(parsed, dict) else document
    return restore_defaults(document) if isinstance(document, dict) else document


def _read(model: type[M], document: Document) -> M:
    return model.model_validate(document) if isinstance(document, dict) else model.model_validate_json(document)
