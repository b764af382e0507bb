"""Next spec: the spec to try after this one, as far as the findings suggest one.

Owns how a finding becomes a change of the spec. Each suggestion is checked by itself: one that leaves the spec invalid,
or that cannot be computed, is left out, and the others stay. It must not know files.
"""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from search_spaces.domains import Candidates, Choice, Interval
from search_spaces.experiment import ExperimentSpec
from search_spaces.insight import Finding, NextSpec
from search_spaces.problems import SpecError
from search_spaces.sampling import domains, without_indices
from search_spaces.validation import validate
from workers.insight.hyperparameters import label

EXTENSIONS = (0.5, 0.25, 0.1)  # of a domain beyond a bound, as shares of its width: the first that is valid
MORE_EPOCHS = 1.5
SUFFIX = "-next"
BALANCED_METRIC = "validation_balanced_accuracy"
BALANCED_METRICS = {BALANCED_METRIC, "validation_macro_f1"}  # in which all classes count the same
DECIMALS = 9  # of a multiple of a step: without binary noise

log = logging.getLogger(__name__)

Document = dict[str, Any]
#: A change in words, and the document with it.
Change = tuple[str, Document]
#: The forms of one change of a document, of which the first valid one is made.
Suggestion = Callable[[Document], Iterator[Change]]


def next_spec(
    spec: ExperimentSpec, found: Mapping[str, Finding], winner: list[Finding], *, hides_classes: bool = False
) -> NextSpec:
    """`found` are the findings about the space by path, `winner` those about the winner's curves. `hides_classes`:
    the winner's accuracy hides that it seldom recognizes some classes."""
    document, changes = spec.model_dump(mode="json"), []
    suggestions: list[Suggestion] = list(_suggestions(spec, found, winner))
    if hides_classes:
        suggestions += [_balanced_objective, *_BALANCING]
    for suggestion in suggestions:
        if change := _first_valid(suggestion, document):
            changes.append(change[0])
            document = change[1]
    if not changes:
        return NextSpec()
    named = document | {"name": f"{spec.name.removesuffix(SUFFIX)}{SUFFIX}"}
    return NextSpec(changes=changes, spec=named if _is_valid(named) else document)


def _suggestions(spec: ExperimentSpec, found: Mapping[str, Finding], winner: list[Finding]) -> Iterator[Suggestion]:
    known = list(domains(spec.search_space))
    for path, domain in known:
        if path in found and isinstance(domain, Interval):
            yield partial(_extended, path=path, domain=domain, finding=found[path])
    if any(finding.kind == "improving" for finding in winner):
        yield partial(_longer, epochs=spec.max_epochs)
    for path, domain in reversed(known):
        # The last alternative of the deepest choice first, so that the paths of the others stay.
        for index in range(len(domain.choice) - 1, -1, -1) if isinstance(domain, Choice) else ():
            if f"{path}[{index}]" in found and isinstance(domain, Choice):
                yield partial(_without, path=path, index=index, name=label(domain, index))


def _balanced_objective(document: Document) -> Iterator[Change]:
    """In place of an objective in which classes of few images hardly count. Its goal says nothing of the new one."""
    objective = document["objective"]
    if objective["metric"] not in BALANCED_METRICS:
        changed = {**objective, "metric": BALANCED_METRIC, "mode": "max", "goal": None}
        yield f"objective.metric {BALANCED_METRIC}", document | {"objective": changed}


def _searched(document: Document, name: str, alternatives: list[Any]) -> Iterator[Change]:
    """A hyperparameter that the spec fixes is searched."""
    space = document["search_space"]
    if not isinstance(space[name], dict):
        text = " or ".join(json.dumps(one) if isinstance(one, bool) else one for one in alternatives)
        yield f"{name} {text}", document | {"search_space": {**space, name: {"choice": alternatives}}}


#: What makes a network recognize classes of few images.
_BALANCING: tuple[Suggestion, ...] = (
    partial(_searched, name="class_weights", alternatives=["none", "balanced"]),
    partial(_searched, name="balanced_sampling", alternatives=[False, True]),
)


def _first_valid(suggestion: Suggestion, document: Document) -> Change | None:
    try:
        return next((change for change in suggestion(document) if _is_valid(change[1])), None)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        log.warning("a change of the spec cannot be suggested: %r", error)
        return None


def _longer(document: Document, epochs: int) -> Iterator[Change]:
    more = math.ceil(MORE_EPOCHS * epochs)
    yield f"max_epochs {more} instead of {epochs}", document | {"max_epochs": more}


def _extended(document: Document, path: str, domain: Interval, finding: Finding) -> Iterator[Change]:
    """A domain that reaches beyond the bound of the finding, the widest first."""
    upwards = finding.figures["bound"] == domain.high
    for share in EXTENSIONS:
        end = _end(domain, share, upwards)
        if not math.isfinite(end) or not (end > domain.high if upwards else end < domain.low):
            continue
        changed = copy.deepcopy(document)
        holder, key = _place(changed, path)
        bounds = list(domain.bounds)
        bounds[1 if upwards else 0] = end
        holder[key] = {domain.keyword: bounds}
        yield f"{without_indices(path)} {'up' if upwards else 'down'} to {end:g}", changed


def _end(domain: Interval, share: float, upwards: bool) -> float:
    """The new end of a domain that is extended by a share of its width; infinite where no number is so large."""
    low, high = domain.low, domain.high
    if domain.log:
        factor = math.exp(share * (math.log(high) - math.log(low)))
        end = high * factor if upwards else low / factor
    elif domain.step is not None:
        steps = max(1, round(share * (len(Candidates(domain)) - 1)))
        end = high + steps * domain.step if upwards else low - steps * domain.step
    else:
        end = high + share * (high - low) if upwards else low - share * (high - low)
    if not math.isfinite(end):
        return end
    if domain.integer:
        return round(end)
    return float(f"{end:.2g}") if domain.step is None else round(end, DECIMALS)


def _without(document: Document, path: str, index: int, name: str) -> Iterator[Change]:
    """The document without an alternative; of the last one that remains, no choice is left."""
    changed = copy.deepcopy(document)
    holder, key = _place(changed, path)
    alternatives = holder[key]["choice"]
    del alternatives[index]
    if len(alternatives) == 1:
        holder[key] = alternatives[0]
    yield f"{without_indices(path)} without {name}", changed


def _place(document: Document, path: str) -> tuple[Any, Any]:
    """What holds the domain of a path, and under which key or index."""
    holder: Any = document
    key: Any = "search_space"
    for name in _steps(path):
        inner = holder[key]
        if isinstance(name, int) and isinstance(inner, dict):
            inner = inner["choice"]
        holder, key = inner, name
    return holder, key


def _steps(path: str) -> Iterator[str | int]:
    """`optimizer[1].lr` as `optimizer`, 1, `lr`."""
    for part in path.split("."):
        name, *indices = part.replace("]", "").split("[")
        yield name
        yield from map(int, indices)


def _is_valid(document: Document) -> bool:
    try:
        validate(document)
    except SpecError:
        return False
    return True
