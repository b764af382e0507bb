"""Validation: the one way from untrusted data to an ExperimentSpec or its Controls.

Owns `validate` and the translation of pydantic's errors to problems: union tags leave the paths, unknown names are
answered with the nearest known one, and errors that only follow from another error are dropped. It must not know HTTP,
nor any hyperparameter by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, overload

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from search_spaces.domains import DOMAINS, KEYWORDS, holds_domain, numeric_domains
from search_spaces.experiment import ExperimentSpec
from search_spaces.problems import MAX_PROBLEMS, Problem, SpecError, nearest, shorten, unknown
from search_spaces.spec import GIVEN, Spec, members

S = TypeVar("S", bound=Spec)


@overload
def validate(data: Any) -> ExperimentSpec: ...


@overload
def validate(data: Any, model: type[S]) -> S: ...


def validate(data: Any, model: type[Spec] = ExperimentSpec) -> Spec:
    """The spec that `data` (parsed JSON or YAML) says. Raises SpecError with all its problems."""
    try:
        return model.model_validate(data, context=GIVEN)
    except ValidationError as error:
        raise SpecError(_problems(error.errors(include_url=False), data, model)) from None
    except RecursionError:
        raise SpecError([Problem("document", "less deeply nested data required")]) from None
    except OverflowError:
        raise SpecError([Problem("document", "whole numbers of fewer digits required")]) from None


@dataclass(frozen=True)
class _Place:
    """Where a `loc` leads: the path as written, the data there, and what the schema expects next.

    `model` is set where a field name comes next, `keyword` inside a domain's notation, `tagged` where
    pydantic puts the alternative's tag before anything else.
    """

    path: str
    node: Any
    model: type[BaseModel] | None = None
    family: tuple[type[Spec], ...] = ()
    annotation: Any = None
    searchable: bool = False
    keyword: str | None = None
    tagged: bool = False
    siblings: tuple[type[Spec], ...] = ()

    def step(self, name: str | int) -> _Place:
        if isinstance(name, int):
            inside = self.node[name] if isinstance(self.node, list | tuple) and name < len(self.node) else None
            return replace(self, path=f"{self.path}[{name}]", node=inside, tagged=self.keyword == "choice")
        if self.model is not None:
            return self._field(name)
        if self.tagged and (name == "value" or name in KEYWORDS):
            if name != "value":
                return replace(self, keyword=name, tagged=False)
            return replace(self, keyword=None, tagged=False, model=self.family[0] if len(self.family) == 1 else None)
        if self.keyword == name and isinstance(self.node, Mapping):
            return replace(self, path=_join(self.path, name), node=self.node.get(name))
        for member in self.family:
            if name == _tag_of(member):
                return replace(self, model=member, siblings=self.family)
        if isinstance(self.node, Mapping) and name in self.node:
            return replace(self, path=_join(self.path, name), node=self.node[name], tagged=self.searchable)
        return self

    def _field(self, name: str) -> _Place:
        node = self.node.get(name) if isinstance(self.node, Mapping) else None
        info: FieldInfo | None = self.model.model_fields.get(name) if self.model else None
        if info is None:
            return _Place(_join(self.path, name), node)
        family = members(info.annotation)
        searchable = holds_domain(info.annotation, info.metadata)
        many = isinstance(node, Mapping) and str(info.annotation).startswith("dict[")
        alone = not searchable and len(family) == 1
        return _Place(
            _join(self.path, name),
            node,
            model=family[0] if alone else None,
            family=family,
            annotation=info.annotation,
            searchable=searchable,
            tagged=searchable and not many,
        )


def _problems(errors: list[ErrorDetails], data: Any, model: type[Spec]) -> list[Problem]:
    locs = [error["loc"] for error in errors]
    found: dict[tuple[str, str], Problem] = {}
    strangers = 0
    for error in errors:
        loc = error["loc"]
        if error["type"] == "extra_forbidden":
            strangers += 1
            if strangers > MAX_PROBLEMS:  # enough is shown, and a guess for each of thousands would take seconds
                continue
        if error["type"] in _COUNTS and any(other[: len(loc)] == loc and len(other) > len(loc) for other in locs):
            continue
        problem = _problem(error, data, model)
        found.setdefault((problem.field, problem.rule), problem)
    kept = _without_shape_echoes(list(found.values()))
    left = max(0, len(kept) - MAX_PROBLEMS) + max(0, strangers - MAX_PROBLEMS)
    if left:
        kept = [*kept[:MAX_PROBLEMS], Problem("document", f"and {left} more problems")]
    return kept


def _without_shape_echoes(problems: list[Problem]) -> list[Problem]:
    """Drop `takes [low, high]` where one of the ends has a problem of its own."""
    fields = [problem.field for problem in problems]
    return [
        problem
        for problem in problems
        if not (
            problem.rule.startswith("takes [low, high") and any(name.startswith(problem.field + "[") for name in fields)
        )
    ]


def _problem(error: ErrorDetails, data: Any, model: type[Spec]) -> Problem:
    before = place = _Place("", data, model=model)
    for name in error["loc"]:
        before, place = place, place.step(name)
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(place.path, _unknown_field(before, str(error["loc"][-1])), shorten(place.node))
    if kind == "missing" and not isinstance(error["loc"][-1], int):
        return Problem(place.path, _missing(before))
    if place.keyword in KEYWORDS - {"choice"} and kind in {*_COUNTS, "missing", "tuple_type"}:
        return _shape(place, data, error, model)
    if kind in {"union_tag_invalid", "union_tag_not_found", "model_attributes_type"}:
        return _tag_problem(place, error)
    if isinstance(place.node, Mapping) and place.keyword is None and place.model is None and kind not in _OF_MAPPINGS:
        return Problem(place.path, _not_a_domain(place, rule_of(error)), shorten(place.node))
    if kind == "domain_kind":
        (keyword,) = place.node if isinstance(place.node, Mapping) else ("this",)
        return Problem(place.path, f"{_domain_rule(place)}, got {keyword}", shorten(place.node))
    if kind == "invalid_key":
        return Problem(place.path, "a string required as field name", shorten(error["loc"][-1]))
    if not error["loc"]:
        head, _, rest = error["msg"].partition(": ")
        if rest and re.split(r"[.\[]", head)[0] in model.model_fields:
            path, node = _written(head, data)
            return Problem(path, rest, shorten(context.get("value", node)))
        return Problem("document", rule_of(error), None if isinstance(data, Mapping) else shorten(data))
    rule = rule_of(error)
    return Problem(place.path, rule + (", got null" if place.node is None else ""), shorten(place.node))


_COUNTS = frozenset({"too_short", "too_long"})
_OF_MAPPINGS = frozenset({"domain_kind", "too_long", "too_short"})

#: pydantic's error type -> our rule; the names in braces are of the error's context.
_RULES = {
    "missing": "required",
    "extra_forbidden": "unknown field",
    "enum": "{expected} required",
    "bool_type": "true or false required",
    "bool_parsing": "true or false required",
    "float_type": "a number required",
    "float_parsing": "a number required",
    "int_type": "a whole number required",
    "int_parsing": "a whole number required",
    "int_from_float": "a whole number required",
    "string_type": "a string required",
    "tuple_type": "a list required",
    "dict_type": "a mapping required",
    "model_type": "a mapping required",
    "finite_number": "a finite number required",
    "greater_than": "> {gt} required",
    "greater_than_equal": ">= {ge} required",
    "less_than": "< {lt} required",
    "less_than_equal": "<= {le} required",
    "literal_error": "{expected} required",
    "string_too_short": "{min_length} or more characters required",
    "string_too_long": "at most {max_length} characters required",
    "string_pattern_mismatch": "text that matches {pattern} required",
    "too_short": "a list of {min_length} or more required",
    "too_long": "a list of at most {max_length} required",
}


_SIGNS = {
    "greater than or equal to": ">=",
    "less than or equal to": "<=",
    "greater than": ">",
    "less than": "<",
}


def rule_of(error: ErrorDetails) -> str:
    """The rule that one of pydantic's errors stands for, in our words."""
    if error["type"] in _RULES:
        context = {
            key: f"{value:g}" if isinstance(value, float) else value for key, value in error.get("ctx", {}).items()
        }
        return _RULES[error["type"]].format(**context)
    message = re.sub(r"Input should be (?:a valid )?(.*)$", r"\1 required", error["msg"])
    for words, sign in _SIGNS.items():
        message = message.replace(words, sign)
    return message


def _unknown_field(place: _Place, name: str) -> str:
    if place.model is None:
        return "unknown field"
    known = [field for field in place.model.model_fields if field != "version"]
    owners = [str(_tag_of(cls)) for cls in place.siblings if name in cls.model_fields]
    if owners:
        return f"unknown field of {_tag_of(place.model)}; {', '.join(owners)} would take it"
    guess = nearest(name, known)
    return f"unknown field, did you mean {guess!r}?" if guess else f"unknown field; known are {', '.join(known)}"


def _missing(place: _Place) -> str:
    """A missing field, or a misspelled one: the unknown name has a problem of its own."""
    return f"required by {_tag_of(place.model)}" if place.siblings and place.model else "required"


def _shape(place: _Place, data: Any, error: ErrorDetails, model: type[Spec]) -> Problem:
    """The notation of an interval has the wrong number of figures."""
    last = max(index for index, name in enumerate(error["loc"]) if name == place.keyword)
    whole = _Place("", data, model=model)
    for name in error["loc"][: last + 1]:
        whole = whole.step(name)
    (form,) = (domain.model_fields[place.keyword].description for domain in DOMAINS if domain.keyword == place.keyword)
    return Problem(whole.path, f"takes {form}", shorten(whole.node))


def _tag_problem(place: _Place, error: ErrorDetails) -> Problem:
    node = place.node
    discriminator = str(error.get("ctx", {}).get("discriminator", "")).strip("'")
    tags = [str(_tag_of(member)) for member in place.family]
    one_of = f"one of {', '.join(tags)} required"
    if not isinstance(node, str | Mapping):
        return Problem(place.path, one_of, shorten(node))
    if discriminator not in {"kind", "name"}:
        if "choice" in node:
            return Problem(place.path, "a choice inside a choice: write its alternatives into the outer list")
        return Problem(place.path, _domain_rule(place), shorten(node))
    if isinstance(node, str):
        return Problem(place.path, unknown(discriminator, node, tags), shorten(node))
    if discriminator in node:
        name = node[discriminator]
        if not isinstance(name, str):
            return Problem(_join(place.path, discriminator), one_of, shorten(name))
        return Problem(_join(place.path, discriminator), unknown(discriminator, name, tags), shorten(name))
    return Problem(place.path, _not_a_domain(place, f"{discriminator} missing, {one_of}"), shorten(node))


def _not_a_domain(place: _Place, rule: str) -> str:
    """A mapping stands where a value or a domain is meant."""
    if not place.searchable:
        return f"{rule}; this field takes no domain" if KEYWORDS & set(map(str, place.node)) else rule
    for name in map(str, place.node):
        if name in KEYWORDS:
            others = [str(key) for key in place.node if key != name]
            return f"a domain stands alone: {name} without {', '.join(others)} required"
    for name in map(str, place.node):
        if (guess := nearest(name, _keywords(place))) and len(place.node) == 1:
            return f"unknown domain {name!r}, did you mean {guess!r}? {_domain_rule(place)}"
    return rule if place.family else _domain_rule(place)


def _domain_rule(place: _Place) -> str:
    *some, last = _keywords(place)
    return f"a value, {', '.join(some)} or {last} required" if some else f"a value or {last} required"


def _keywords(place: _Place) -> list[str]:
    inner = [domain.keyword for domain in numeric_domains(place.annotation)]
    return inner if place.keyword == "choice" and inner else [*inner, "choice"]


def _tag_of(model: type[BaseModel] | None) -> Any:
    """The name that selects a member of a family: the default of its `kind`, or of a data set's `name`."""
    fields = model.model_fields if model else {}
    return next((fields[name].default for name in ("kind", "name") if name in fields), None)


def _written(path: str, data: Any) -> tuple[str, Any]:
    """A path of `sampling` (`optimizer[1].lr`) as the spec has it (`optimizer.choice[1].lr`), and the data there."""
    out, node = "", data
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        if index:
            if isinstance(node, Mapping) and "choice" in node:
                out, node = f"{out}.choice", node["choice"]
            out += f"[{index}]"
            node = node[int(index)] if isinstance(node, list | tuple) and int(index) < len(node) else None
        else:
            out = _join(out, name)
            node = node.get(name) if isinstance(node, Mapping) else None
    return out, node


def _join(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)
