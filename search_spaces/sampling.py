"""Sampling: from a tree of specs with domains to one without.

One walk, `resolve`, visits the domains that are active in a tree and asks `draw` for each. Searchers,
grids and rebinding of stored samples are different `draw`s. A sample is flat: path -> number for
intervals, path -> index for choices; `optimizer[1].lr` is the rate of the second alternative.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from search_spaces.domains import Candidates, Choice, Domain, Interval, count, quantize
from search_spaces.spec import Spec

Sample = Mapping[str, float]
Draw = Callable[[str, Domain], float]

NOT_APPLICABLE = "n/a"


def resolve(node: Any, draw: Draw, path: str = "") -> Any:
    """`node` as plain data (dicts, lists, values) with every domain replaced by a drawn value."""
    if isinstance(node, Choice):
        index = int(draw(path, node))
        if not 0 <= index < len(node.choice):
            raise ValueError(f"{path}: must be an index below {len(node.choice)} (got {index})")
        return resolve(node.choice[index], draw, f"{path}[{index}]")
    if isinstance(node, Interval):
        value = quantize(node, draw(path, node))
        if not node.low <= value <= node.high:
            raise ValueError(f"{path}: must be from {node.low} to {node.high} (got {value})")
        return value
    if isinstance(node, Spec):
        return {name: resolve(getattr(node, name), draw, _join(path, name)) for name in type(node).model_fields}
    if isinstance(node, dict):
        return {key: resolve(value, draw, _join(path, key)) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [resolve(value, draw, f"{path}[{index}]") for index, value in enumerate(node)]
    return node


def draw_from(sample: Sample) -> Draw:
    """The draw that repeats a recorded sample. Raises ValueError for a path that it lacks."""

    def draw(path: str, domain: Domain) -> float:
        if path not in sample:
            raise ValueError(f"{path}: missing from the sample, which has {sorted(sample)}")
        return sample[path]

    return draw


def domains(node: Any) -> Iterator[tuple[str, Domain]]:
    """Every domain at any depth, active or not, with its path."""
    for path, value in leaves(node):
        if isinstance(value, Domain):
            yield path, value


def conditions(node: Any) -> dict[str, tuple[tuple[str, int], ...]]:
    """By the path of each domain: the choices that it is in, each with the index of its alternative.

    A domain is active where all of these alternatives are chosen.
    """
    paths = dict(domains(node))
    choices = {path for path, domain in paths.items() if isinstance(domain, Choice)}
    return {
        path: tuple(
            (path[: bracket.start()], int(bracket[1]))
            for bracket in re.finditer(r"\[(\d+)\]", path)
            if path[: bracket.start()] in choices
        )
        for path in paths
    }


def combinations(node: Any) -> Iterator[dict[str, float]]:
    """Every sample of a tree of finite domains. Raises ValueError naming the path of a continuous one.

    Depth first: the last domain of the spec moves fastest. Only domains active in a combination are in it.
    """
    yield from _walk(node, _options)


def distinct_combinations(node: Any) -> Iterator[dict[str, float]]:
    """`combinations` of which each has other values: of equal alternatives of a choice, only the first is in them."""
    indices: dict[str, Sequence[float]] = {}

    def options(path: str, domain: Domain) -> Sequence[float]:
        if path not in indices:
            indices[path] = list(distinct(domain)) if isinstance(domain, Choice) else _options(path, domain)
        return indices[path]

    yield from _walk(node, options)


def extreme_samples(node: Any) -> Iterator[dict[str, float]]:
    """Samples of every alternative, with each interval at its low and at its high end. Ordered as `combinations`."""
    yield from _walk(node, _ends)


def _walk(node: Any, options_of: Callable[[str, Domain], Sequence[float]]) -> Iterator[dict[str, float]]:
    """Each sample. A step costs as much as there are active domains, however many options they have."""
    positions: dict[str, int] | None = {}
    while positions is not None:
        active = _active(node, positions, options_of)
        yield {path: options[positions.get(path, 0)] for path, options in active.items()}
        positions = _successor(positions, active)


def count_combinations(node: Any) -> int:
    """How many samples `combinations` yields, without walking them. Raises ValueError for a continuous domain."""
    if isinstance(node, Choice):
        return sum(len(indices) * count_combinations(node.choice[indices[0]]) for indices in _equal(node))
    if isinstance(node, Interval):
        return count(node)
    if isinstance(node, Spec):
        return math.prod(count_combinations(getattr(node, name)) for name in type(node).model_fields)
    if isinstance(node, dict | list | tuple):
        return math.prod(count_combinations(item) for item in (node.values() if isinstance(node, dict) else node))
    return 1


def count_distinct(node: Any) -> float:
    """How many different bindings a tree has; infinite where a domain is continuous, or where no float is so large.

    Equal alternatives of a choice count once. Ranges of one choice that overlap count as if they did not.
    """
    if isinstance(node, Choice):
        return sum(map(count_distinct, distinct(node).values()))
    if isinstance(node, Interval):
        return math.inf if node.step is None else float(count(node))
    if isinstance(node, Spec):
        return math.prod(count_distinct(getattr(node, name)) for name in type(node).model_fields)
    if isinstance(node, dict | list | tuple):
        return math.prod(map(count_distinct, node.values() if isinstance(node, dict) else node))
    return 1.0


def distinct(choice: Choice) -> dict[int, Any]:
    """Index -> alternative, of equal ones the first."""
    return {indices[0]: choice.choice[indices[0]] for indices in _equal(choice)}


def choices(node: Any, path: str = "") -> Iterator[tuple[str, Choice]]:
    """Every choice at any depth with its path as a document has it (`optimizer.choice[1].lr`), in distinct
    alternatives only."""
    if isinstance(node, Choice):
        yield path, node
        for index, item in distinct(node).items():
            yield from choices(item, f"{path}.choice[{index}]")
    elif isinstance(node, Spec):
        for name in type(node).model_fields:
            yield from choices(getattr(node, name), _join(path, name))
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from choices(value, _join(path, key))
    elif isinstance(node, list | tuple):
        for index, item in enumerate(node):
            yield from choices(item, f"{path}[{index}]")


def _equal(choice: Choice) -> Iterable[list[int]]:
    """The indices of the alternatives, equal ones together."""
    found: dict[str, list[int]] = {}
    for index, item in enumerate(choice.choice):
        text = item.model_dump_json() if isinstance(item, BaseModel) else json.dumps(item)
        found.setdefault(text, []).append(index)
    return found.values()


def _active(
    node: Any, positions: Mapping[str, int], options_of: Callable[[str, Domain], Sequence[float]]
) -> dict[str, Sequence[float]]:
    """Path -> options of the active domains, at `positions` and otherwise at the first option."""
    met: dict[str, Sequence[float]] = {}

    def draw(path: str, domain: Domain) -> float:
        met[path] = options_of(path, domain)
        return met[path][positions.get(path, 0)]

    resolve(node, draw)
    return met


def _successor(positions: Mapping[str, int], active: Mapping[str, Sequence[float]]) -> dict[str, int] | None:
    """The positions that the next combination begins with; None after the last."""
    paths = list(active)
    for last in reversed(range(len(paths))):
        position = positions.get(paths[last], 0) + 1
        if position < len(active[paths[last]]):
            return {path: positions.get(path, 0) for path in paths[:last]} | {paths[last]: position}
    return None


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value and domain of a tree with its path; a choice comes before what is inside its alternatives."""
    if isinstance(node, Choice):
        yield path, node
        for index, item in enumerate(node.choice):
            if isinstance(item, Spec | Domain | dict):
                yield from leaves(item, f"{path}[{index}]")
    elif isinstance(node, Spec):
        for name in type(node).model_fields:
            yield from leaves(getattr(node, name), _join(path, name))
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, _join(path, key))
    elif isinstance(node, list | tuple) and any(isinstance(item, Domain) for item in node):
        for index, item in enumerate(node):
            yield from leaves(item, f"{path}[{index}]")
    else:
        yield path, node


def as_written(node: Any, path: str) -> str:
    """A path of this module (`optimizer[1].lr`) as a document has it (`optimizer.choice[1].lr`)."""
    out = ""
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        if index:
            out += f".choice[{index}]" if isinstance(node, Choice) else f"[{index}]"
            node = node.choice[int(index)] if isinstance(node, Choice) else node[int(index)]
        else:
            out = _join(out, name)
            node = node[name] if isinstance(node, dict) else getattr(node, name)
    return out


def flatten(bound: Any, prefix: str = "") -> dict[str, str | float]:
    """One dotted key per hyperparameter of plain bound data; None is not a hyperparameter's value."""
    if isinstance(bound, dict):
        flat: dict[str, str | float] = {}
        for key, value in bound.items():
            flat |= flatten(value, _join(prefix, key))
        return flat
    if bound is None:
        return {prefix: NOT_APPLICABLE}
    return {prefix: bound if isinstance(bound, int | float | str) else str(bound)}


def parameter_names(node: Any) -> set[str]:
    """The keys that `flatten` may give for any binding of this tree."""
    names: set[str] = set()
    for path, value in leaves(node):
        if not (isinstance(value, Choice) and all(isinstance(item, Spec | dict) for item in value.choice)):
            names.add(without_indices(path))
    return names


def _options(path: str, domain: Domain) -> Sequence[float]:
    if isinstance(domain, Choice):
        return range(len(domain.choice))
    if isinstance(domain, Interval):
        try:
            return Candidates(domain)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    raise TypeError(f"unknown domain {domain!r}")


def _ends(path: str, domain: Domain) -> Sequence[float]:
    return (domain.low, domain.high) if isinstance(domain, Interval) else _options(path, domain)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else str(name)


def without_indices(path: str) -> str:
    out, depth = [], 0
    for character in path:
        depth += (character == "[") - (character == "]")
        if depth == 0 and character != "]":
            out.append(character)
    return "".join(out)
