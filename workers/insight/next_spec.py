"""Next spec: the spec to try after this one, as far as the findings suggest one.

Owns how a finding becomes a change of the spec. Each change that is kept leaves the spec valid. It must not know files.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
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

Document = dict[str, Any]


def next_spec(spec: ExperimentSpec, found: Mapping[str, Finding], winner: list[Finding]) -> NextSpec:
    """`found` are the findings about the space by path, `winner` those about the winner's curves."""
    document, changes = spec.model_dump(mode="json"), []
    for path, domain in domains(spec.search_space):
        if path in found and isinstance(domain, Interval):
            upwards = found[path].figures["bound"] == domain.high
            for end, changed in _extended(document, path, domain, upwards):
                if _is_valid(changed):
                    document = changed
                    changes.append(f"{without_indices(path)} {'up' if upwards else 'down'} to {end:g}")
                    break
    if any(finding.kind == "improving" for finding in winner):
        epochs = math.ceil(MORE_EPOCHS * spec.max_epochs)
        changed = document | {"max_epochs": epochs}
        if _is_valid(changed):
            document = changed
            changes.append(f"max_epochs {epochs} instead of {spec.max_epochs}")
    for path, domain in reversed(list(domains(spec.search_space))):
        # The last alternative of the deepest choice first, so that the paths of the others stay.
        for index in range(len(domain.choice) - 1, -1, -1) if isinstance(domain, Choice) else ():
            if f"{path}[{index}]" in found and isinstance(domain, Choice):
                changed = _without(document, path, index)
                if _is_valid(changed):
                    document = changed
                    changes.append(f"{without_indices(path)} without {label(domain, index)}")
    if not changes:
        return NextSpec()
    name = spec.name.removesuffix(SUFFIX)
    named = document | {"name": f"{name}{SUFFIX}"}
    return NextSpec(changes=changes, spec=named if _is_valid(named) else document)


def _extended(document: Document, path: str, domain: Interval, upwards: bool) -> Iterator[tuple[float, Document]]:
    """The new end and the document with it, the widest first."""
    for share in EXTENSIONS:
        low, high = domain.low, domain.high
        if domain.log:
            factor = (high / low) ** share
            end = high * factor if upwards else low / factor
        else:
            end = high + share * (high - low) if upwards else low - share * (high - low)
        if domain.step is not None and not domain.log:
            steps = max(1, round(share * (len(Candidates(domain)) - 1)))
            end = high + steps * domain.step if upwards else low - steps * domain.step
        end = round(end) if domain.integer else float(f"{end:.2g}")
        if not (end > high if upwards else end < low):
            continue
        changed = copy.deepcopy(document)
        holder, key = _place(changed, path)
        bounds = list(domain.bounds)
        bounds[1 if upwards else 0] = end
        holder[key] = {domain.keyword: bounds}
        yield end, changed


def _without(document: Document, path: str, index: int) -> Document:
    """The document without an alternative; of the last one that remains, no choice is left."""
    changed = copy.deepcopy(document)
    holder, key = _place(changed, path)
    alternatives = holder[key]["choice"]
    del alternatives[index]
    if len(alternatives) == 1:
        holder[key] = alternatives[0]
    return changed


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
