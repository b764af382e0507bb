"""Initial points: configurations that a person names, or that are known from earlier experiments, as samples.

A point is written as the search space is, with a value in the place of each domain, or with dotted names, as trials are
listed: `{optimizer: {kind: sgd, lr: 0.1}}` or `{optimizer.lr: 0.1}`. What it leaves out has its default, or the value
of the domain that is nearest to it. It must not know searchers, nor any hyperparameter by name.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from search_spaces.domains import MAX_INTEGER, Choice, Domain, Interval, quantize
from search_spaces.phrases import listed
from search_spaces.positions import value_at
from search_spaces.problems import Problem, SpecError, nearest, shorten, unknown
from search_spaces.sampling import NOT_APPLICABLE, Sample, distinct
from search_spaces.spec import Spec

#: The point that names nothing.
DEFAULT = "default"
MOST_LISTED = 20  # values in one sentence
#: Configurations of earlier experiments that a search tries. If they mislead, so many trials are lost, and most of them
#: are stopped at the first rung.
MAX_KNOWN = 5

_MISSING: Any = object()


def _checked(point: Any) -> Any:
    if point == DEFAULT or (isinstance(point, Mapping) and all(isinstance(name, str) for name in point)):
        return point
    raise PydanticCustomError("initial_point", "must be default, or hyperparameters with their values")


InitialPoint = Annotated[
    Any,
    BeforeValidator(_checked),
    WithJsonSchema({"anyOf": [{"const": DEFAULT, "type": "string"}, {"type": "object"}]}),
]


def initial_problems(search_space: Spec, point: Any, path: str) -> Iterator[Problem]:
    """What is wrong with a point that is written at `path`."""
    return _Placing(search_space, point, path).problems()


def initial_sample(search_space: Spec, point: Any) -> dict[str, float]:
    """Raises SpecError for a point that has problems."""
    placing = _Placing(search_space, point, "")
    if found := list(placing.problems()):
        raise SpecError(found)
    return placing.sample


def known_sample(search_space: Spec, parameters: Mapping[str, Any]) -> Sample:
    """The sample nearest to a trial of another search space, given by its hyperparameters under dotted names.

    What does not fit this space is left out: a value, or all fields of a block whose kind it does not have.
    """
    left = {name: _read_list(value) for name, value in parameters.items()}
    while True:
        placing = _Placing(search_space, left, "")
        wrong = {problem.field.split("[")[0].removesuffix(".kind") for problem in placing.problems()}
        if not wrong:
            return placing.sample
        fits = {name: value for name, value in left.items() if not any(_within(name, block) for block in wrong)}
        left = fits if len(fits) < len(left) else {}


def _read_list(value: Any) -> Any:
    """A list is listed as text among the hyperparameters of a trial."""
    if not isinstance(value, str) or not value.startswith("["):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def _within(name: str, block: str) -> bool:
    return name == block or name.startswith(f"{block}.") or block.startswith(f"{name}.")


class _Placing:
    """The walk of a point and of a search space at once. `sample` is complete when all `problems` were looked for.

    In each step, `given` is what the point says, `default` what stands there otherwise, `path` is that of the sample,
    and `written` that of the point.
    """

    def __init__(self, search_space: Spec, point: Any, path: str) -> None:
        self._space, self._point, self._path = search_space, {} if point == DEFAULT else point, path
        self.sample: dict[str, float] = {}

    def problems(self) -> Iterator[Problem]:
        given, twice = _nested(self._point)
        for name in twice:
            yield Problem(_join(self._path, name), "must be given once", shorten(self._point[name]))
        yield from self._place(self._space, given, _MISSING, "", self._path)

    def _place(self, node: Any, given: Any, default: Any, path: str, written: str) -> Iterator[Problem]:
        if isinstance(node, Choice):
            yield from self._place_choice(node, given, default, path, written)
        elif isinstance(node, Interval):
            yield from self._place_number(node, given, default, path, written)
        elif isinstance(node, Spec | dict):
            yield from self._place_block(node, given, default, path, written)
        elif isinstance(node, list | tuple) and any(isinstance(item, Domain) for item in node):
            yield from self._place_list(node, given, default, path, written)
        elif given is not _MISSING and not _equal(given, node):
            rule = f"must be {_shown(node)} or left out, because the search space has no domain here"
            yield Problem(written, rule, shorten(given))

    def _place_block(
        self, node: Spec | dict[str, Any], given: Any, default: Any, path: str, written: str
    ) -> Iterator[Problem]:
        kind = _kind(node)
        if kind is not None and isinstance(given, str):
            given = {"kind": given}
        if given is not _MISSING and not isinstance(given, Mapping):
            rule = "must be a mapping" if kind is None else f"must be {kind}, or a mapping of its fields"
            yield Problem(written, rule, shorten(given))
            return
        given = {} if given is _MISSING else given
        fields = node if isinstance(node, dict) else {name: getattr(node, name) for name in type(node).model_fields}
        for name in given:
            if name not in fields:
                guess = nearest(name, fields)
                hint = f"did you mean {guess!r}?" if guess else f"known are {listed(fields, MOST_LISTED)}"
                yield Problem(_join(written, name), f"is not a known field; {hint}", shorten(given[name]))
        for name, inner in fields.items():
            inner_default = _default(node, default, name)
            yield from self._place(
                inner, given.get(name, _MISSING), inner_default, _join(path, name), _join(written, name)
            )

    def _place_list(
        self, node: list[Any] | tuple[Any, ...], given: Any, default: Any, path: str, written: str
    ) -> Iterator[Problem]:
        if given is not _MISSING and (not isinstance(given, list | tuple) or len(given) != len(node)):
            yield Problem(written, f"must be a list of {len(node)}", shorten(given))
            return
        for index, item in enumerate(node):
            one = _MISSING if given is _MISSING else given[index]
            other = default[index] if isinstance(default, list | tuple) and index < len(default) else _MISSING
            yield from self._place(item, one, other, f"{path}[{index}]", f"{written}[{index}]")

    def _place_number(self, node: Interval, given: Any, default: Any, path: str, written: str) -> Iterator[Problem]:
        if given is _MISSING:
            self.sample[path] = _nearest_number(node, default) if _is_number(default) else value_at(node, 0.5)
        elif not _is_number(given) and type(given) is not int:
            yield Problem(written, "must be a number" + (", not null" if given is None else ""), shorten(given))
        elif not node.low <= given <= node.high:
            yield Problem(written, f"must be from {node.low} to {node.high}", shorten(given))
        elif not math.isclose(near := _nearest_number(node, given), given, rel_tol=1e-9, abs_tol=1e-12):
            whole = node.integer and node.step == 1
            rule = "must be a whole number" if whole else f"must be {node.low} plus a multiple of {node.step}"
            yield Problem(written, rule, shorten(given))
        else:
            self.sample[path] = near

    def _place_choice(self, node: Choice, given: Any, default: Any, path: str, written: str) -> Iterator[Problem]:
        alternatives = distinct(node)
        if given is _MISSING:
            index = _default_alternative(alternatives, default)
            self.sample[path] = index
            yield from self._place(alternatives[index], _MISSING, default, f"{path}[{index}]", written)
            return
        kinds = {index: kind for index, item in alternatives.items() if (kind := _kind(item)) is not None}
        if kinds and isinstance(given, str | Mapping):
            named, where = (given, written) if isinstance(given, str) else (given.get("kind"), _join(written, "kind"))
            if named is None:
                named = _kind(default)
            elif named not in kinds.values():
                yield Problem(where, unknown(str(named), dict.fromkeys(kinds.values())), shorten(named))
                return
            if named in kinds.values():
                alternatives = {index: alternatives[index] for index, kind in kinds.items() if kind == named}
        before = dict(self.sample)
        for index, item in alternatives.items():
            if _differs(item, given):
                continue
            self.sample[path] = index
            if next(self._place(item, given, default, f"{path}[{index}]", written), None) is None:
                return
            self.sample = dict(before)
        first, *others = alternatives.items()
        if isinstance(first[1], Spec | Interval) and (not others or isinstance(given, Mapping)):
            yield from self._place(first[1], given, default, f"{path}[{first[0]}]", written)
        else:
            names = kinds.values() if len(kinds) == len(alternatives) else map(_shown, alternatives.values())
            rule = f"must be one of {listed(dict.fromkeys(names), MOST_LISTED)}"
            yield Problem(written, rule, shorten(given))


def _differs(item: Any, given: Any) -> bool:
    """Whether a plain field of an alternative is certainly not the one that is given: a choice may have a thousand, and
    to say why each does not fit takes long."""
    if not isinstance(item, Spec) or not isinstance(given, Mapping):
        return False
    pairs = ((getattr(item, name, None), value) for name, value in given.items())
    plain = int | float | str
    return any(isinstance(own, plain) and isinstance(value, plain) and not _equal(value, own) for own, value in pairs)


def _nested(point: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A point without dots in its names and without what does not apply, and the names that say something twice."""
    nested: dict[str, Any] = {}
    twice = []
    for name in sorted(point, key=lambda name: name.count(".")):
        if point[name] == NOT_APPLICABLE:
            continue
        *outer, last = name.split(".")
        block = nested
        for part in outer:
            inner = block.get(part, {})
            block[part] = (
                {"kind": inner} if isinstance(inner, str) else dict(inner) if isinstance(inner, Mapping) else {}
            )
            block = block[part]
        if last in block:
            twice.append(name)
        block[last] = point[name]
    return nested, twice


def _default(node: Spec | dict[str, Any], default: Any, name: str) -> Any:
    """What stands in a field that nobody gives."""
    if isinstance(node, dict):
        return default.get(name, _MISSING) if isinstance(default, Mapping) else _MISSING
    if type(default) is type(node):
        return getattr(default, name)
    field = type(node).model_fields[name]
    return _MISSING if field.is_required() else field.get_default(call_default_factory=True)


def _default_alternative(alternatives: Mapping[int, Any], default: Any) -> int:
    """The alternative that is the default, or of its kind, or has it, or the nearest number; otherwise the first."""
    for fits in (_equal, _same_kind, _contains):
        for index, item in alternatives.items():
            if fits(default, item):
                return index
    distances: dict[int, float] = {}
    if _is_number(default):
        distances = {index: abs(item - default) for index, item in alternatives.items() if _is_number(item)}
    return min(distances or alternatives, key=lambda index: distances.get(index, index))


def _same_kind(default: Any, item: Any) -> bool:
    return isinstance(item, Spec) and type(default) is type(item)


def _contains(default: Any, item: Any) -> bool:
    return isinstance(item, Interval) and _is_number(default) and item.low <= default <= item.high


def _nearest_number(domain: Interval, number: float) -> float:
    inside = min(max(number, domain.low), domain.high)
    if domain.step is None:
        return float(inside)
    return quantize(domain, domain.low + round((inside - domain.low) / domain.step) * domain.step)


def _kind(node: Any) -> str | None:
    kind = getattr(node, "kind", None) if isinstance(node, Spec) else None
    return kind if isinstance(kind, str) else None


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INTEGER


def _equal(one: Any, other: Any) -> bool:
    """Of two values of a document: a tuple is a list there, and 1 is 1.0 but not true."""
    if _is_number(one) and _is_number(other):
        return math.isclose(one, other, rel_tol=1e-9)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return type(one) is type(other) and bool(one == other)


def _shown(value: Any) -> str:
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return str(shorten(plain)) if isinstance(plain, str) else json.dumps(shorten(plain), default=str)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
