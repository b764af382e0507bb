"""Consistency: what the fields of a spec must keep together, and what of it is allowed but seldom meant.

Owns every rule that looks at more than one part of an experiment. A plugin's arguments are its own: no rule of
ours reads them, whatever their names are. It must not change a spec.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticCustomError

from search_spaces.domains import Choice, Interval
from search_spaces.models import NEVER_DETERMINISTIC, TorchvisionModel
from search_spaces.normalization import Batch
from search_spaces.sampling import count_combinations, domains, possible_values, without_indices
from search_spaces.searchers.base import MAX_TRIALS
from search_spaces.searchers.grid import Grid

if TYPE_CHECKING:
    from search_spaces.experiment import ExperimentSpec, SearchSpace


def check(spec: ExperimentSpec) -> None:
    """Raises PydanticCustomError, which begins with the path of the field, for the first rule that is broken.

    What was stored is judged by these too, and must be readable forever: a new rule belongs into `check_given`.
    """
    _check_warmup(spec)
    _check_own_normalization(spec.search_space)
    _check_groups(spec.search_space)
    if isinstance(spec.searcher, Grid):
        _check_grid(spec.search_space, spec.searcher)


def check_given(spec: ExperimentSpec) -> None:
    """As `check`, the rules that are younger than version 1: only what a person gives now must keep them."""
    _check_deterministic(spec)


def warnings(spec: ExperimentSpec) -> list[str]:
    """One sentence for each doubt, naming the field."""
    found = []
    augmentation = spec.search_space.augmentation
    flips = [value for _, value in possible_values(augmentation, "horizontal_flip")]
    if not spec.dataset.mirror_safe and max(flips) > 0:
        declarable = "mirror_safe" in type(spec.dataset).model_fields
        found.append(
            f"search_space.augmentation.horizontal_flip: mirrored {spec.dataset.name} change their label; leave it at 0"
            + (", or declare dataset.mirror_safe: true if yours keep theirs" if declarable else "")
        )
    turns, most = [value for _, value in possible_values(augmentation, "rotation")], spec.dataset.safe_rotation
    if max(turns) > most:
        found.append(
            f"search_space.augmentation.rotation: {spec.dataset.name} turned by up to {max(turns):g} degrees "
            f"change their label, as 6 and 9 do; stay within {most:g}"
        )
    for path, scheduler in _alternatives(spec.search_space.scheduler, "scheduler"):
        epochs = getattr(scheduler, "epochs", None)
        if not isinstance(epochs, int | float):
            continue  # it follows max_t, or is searched
        for warmup in sorted({value for _, value in possible_values(scheduler, "warmup_epochs")}):
            if not math.isclose(epochs + warmup, spec.asha.max_t):
                found.append(
                    f"search_space.{path}.epochs: {scheduler.kind} ends after {warmup:g} epochs of warmup and "
                    f"{epochs:g} more, which differs from asha.max_t={spec.asha.max_t} and costs accuracy without "
                    "a sign; leave it out to follow max_t"
                )
                break
    return found


def _check_warmup(spec: ExperimentSpec) -> None:
    for path, value in possible_values(spec.search_space.scheduler, "warmup_epochs", "scheduler"):
        if value >= spec.asha.max_t:
            raise PydanticCustomError(
                "warmup_length",
                "search_space.{path}: warmup_epochs < asha.max_t required, got {value} and {max_t}",
                {"path": path, "value": value, "max_t": spec.asha.max_t},
            )


def _check_own_normalization(space: SearchSpace) -> None:
    """Models of torchvision keep their own layers; where one may be drawn, so may nothing but the default."""
    named = [path for path, value in _alternatives(space.model, "model") if isinstance(value, TorchvisionModel)]
    for path, value in _alternatives(space.normalization, "normalization") if named else ():
        if value != Batch():
            raise PydanticCustomError(
                "own_normalization",
                "search_space.{path}: a model of torchvision keeps its own normalization: leave it out where one may "
                "meet it, got {value} and one in {model}",
                {"path": path, "value": value.model_dump_json(), "model": named[0]},
            )


def _check_groups(space: SearchSpace) -> None:
    """Group normalization needs every width it may meet to be a multiple of its groups."""
    groups = {int(value) for _, value in possible_values(space.normalization, "groups", "normalization")}
    widths, hidden = (_of_model(space, field) for field in ("width", "hidden"))
    common = _common_multiple(groups, most=max((*widths, *hidden), default=0))
    for width, path in widths.items():
        if width % common:
            raise PydanticCustomError(
                "group_width",
                "search_space.{path}: group normalization with groups={groups} needs widths that are "
                "multiples of it, got width={width}",
                {"path": path, "groups": min(g for g in groups if width % g), "width": width},
            )
    for features, path in hidden.items():
        if features and (features % common or features in groups):
            raise PydanticCustomError(
                "group_hidden",
                "search_space.{path}: group normalization with groups={groups} needs hidden features that "
                "are a larger multiple of it, got hidden={hidden}",
                {
                    "path": path,
                    "groups": min(g for g in groups if features % g or features == g),
                    "hidden": features,
                },
            )


def _check_deterministic(spec: ExperimentSpec) -> None:
    """Torch raises at the first gradient of a model that has no deterministic form, on a GPU alone."""
    if not spec.execution.deterministic or spec.resources.gpus_per_trial == 0:
        return
    for path, model in _alternatives(spec.search_space.model, "model"):
        for where, name in possible_values(model, "name", path) if isinstance(model, TorchvisionModel) else ():
            if str(name).startswith(NEVER_DETERMINISTIC):
                raise PydanticCustomError(
                    "deterministic_model",
                    "search_space.{path}: a model with deterministic gradients on a GPU required by "
                    "execution.deterministic=true, which {families} have not; leave it out, or set "
                    "resources.gpus_per_trial to 0, got {name}",
                    {"path": where, "families": " and ".join(NEVER_DETERMINISTIC), "name": name},
                )


def _check_grid(space: SearchSpace, searcher: Grid) -> None:
    for path, domain in domains(space):
        if isinstance(domain, Interval) and domain.step is None:
            raise PydanticCustomError(
                "grid_continuous",
                "search_space.{path}: a grid needs finite domains, got {domain}; list values in a choice, or use "
                "quniform",
                {"path": path, "domain": f"{domain.keyword}: {list(domain.bounds)}"},
            )
    every = count_combinations(space)
    if searcher.num_samples is None and every > MAX_TRIALS:
        raise PydanticCustomError(
            "grid_size",
            "searcher.num_samples: at most {most} trials required, got a grid of {every}; limit it or make it smaller",
            {"most": MAX_TRIALS, "every": f"{every:.4g}" if every < 1e300 else "far more"},
        )


def _alternatives(node: Any, path: str) -> list[tuple[str, Any]]:
    """What a field may become, with its path: the alternatives of a choice, or the value alone."""
    if isinstance(node, Choice):
        return [(f"{path}[{index}]", item) for index, item in enumerate(node.choice)]
    return [(path, node)]


def _of_model(space: SearchSpace, field: str) -> dict[int, str]:
    """Value -> a path, of all that a field of our own models may become; a plugin's arguments are its own."""
    found: dict[int, str] = {}
    for path, value in possible_values(space.model, field, "model"):
        if without_indices(path) == f"model.{field}":
            found.setdefault(int(value), path)
    return found


def _common_multiple(numbers: Iterable[int], most: int) -> int:
    """The least common multiple, or some number above `most` where it is above that: no long numbers are made."""
    common = 1
    for number in numbers:
        common = math.lcm(common, number)
        if common > most:
            break
    return common
