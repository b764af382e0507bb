"""Validation: the one way from untrusted data to an ExperimentSpec or its Controls.

Owns `validate` and the translation of pydantic's errors to problems: union tags leave the paths, unknown names are
answered with the nearest known one, and errors that only follow from another error are dropped. It must not know HTTP,
nor any hyperparameter by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, TypeVar, get_args, get_origin, overload

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from search_spaces import cross_field_rules, cross_field_warnings
from search_spaces.domains import FLOAT_DOMAINS, INTEGER_DOMAINS, KEYWORDS, holds_domain, numeric_domains
from search_spaces.experiment import ExperimentSpec, SearchSpace
from search_spaces.habits import domain_hint, root_hint
from search_spaces.parsing import MAX_DEPTH, TOO_LARGE, NumberFault, number_faults
from search_spaces.problems import MAX_PROBLEMS, Problem, SpecError, nearest, shorten, unknown
from search_spaces.spec import Spec, members
from search_spaces.upgrade import DEPRECATED, Upgraded, upgrade

#: Most of pydantic's errors that are translated. Several may be of one problem.
MAX_ERRORS = 1_000

S = TypeVar("S", bound=Spec)
T = TypeVar("T")


@overload
def validate(data: Any) -> ExperimentSpec: ...


@overload
def validate(data: Any, model: type[S]) -> S: ...


def validate(data: Any, model: type[Spec] = ExperimentSpec) -> Spec:
    """The spec that `data` (parsed JSON or YAML) says; one of version 1 is upgraded.

    Raises SpecError with all its problems: those of single fields and, where the fields that a cross-field rule reads
    are valid, those of the rule.
    """
    upgraded = upgrade(data) if model is ExperimentSpec else Upgraded(data)
    numbers: dict[str, NumberFault] = {}
    try:
        numbers = {fault.field: fault for fault in _first(number_faults(upgraded.document))}
        spec = model.model_validate(upgraded.document)
        found = _first(cross_field_rules.problems(spec)) if isinstance(spec, ExperimentSpec) else []
    except ValidationError as error:
        errors = error.errors(include_url=False)
        found = _problems(errors[:MAX_ERRORS], upgraded.document, model)
        if model is ExperimentSpec and len(found) <= MAX_PROBLEMS:
            found = _first(chain(found, _problems_of_the_rest(upgraded.document, errors)))
        spec = None
    except RecursionError:
        raise SpecError([Problem("document", f"must be nested at most {MAX_DEPTH} levels deep")]) from None
    if numbers:  # what else is wrong with a field follows from its number
        rest = (problem for problem in found if not _follows(problem.field, numbers))
        found = [*rest, *_number_problems(numbers.values(), {problem.field: problem.rule for problem in found})]
    if spec is None or found:
        listed = [
            Problem(shorten(upgraded.as_written(one.field)), upgraded.in_text(one.rule), shorten(one.value))
            for one in found[:MAX_PROBLEMS]
        ]
        more = [Problem("document", "and more problems")] if len(found) > MAX_PROBLEMS else []
        raise SpecError([*listed, *more])
    return spec


def warnings(spec: ExperimentSpec, document: Any = None) -> list[str]:
    """Warnings about valid settings that are probably mistakes, and about an old document: one sentence each."""
    upgraded = upgrade(document)
    deprecated = [DEPRECATED] if upgraded.was_upgraded else []
    found = _first(chain(deprecated, map(upgraded.in_text, cross_field_warnings.warnings(spec))))
    return [*found[:MAX_PROBLEMS], *(["and more warnings"] if len(found) > MAX_PROBLEMS else [])]


def _number_problems(faults: Iterable[NumberFault], rules: Mapping[str, str]) -> Iterator[Problem]:
    """The problems of numbers. A field's own rule, of `rules`, says more of a number that is too large."""
    for fault in faults:
        rule = rules.get(fault.field, fault.rule) if fault.rule == TOO_LARGE else fault.rule
        yield Problem(fault.field, f"{rule} (got {fault.shown})")


def _follows(field: str, numbers: Iterable[str]) -> bool:
    """Whether a field is one of `numbers`, or a domain around one."""
    around = {re.sub(rf"\.({'|'.join(KEYWORDS)})(\[.*)?$", "", number) for number in numbers}
    return field in around or any(number == field or number.startswith(f"{field}[") for number in numbers)


def _first(found: Iterable[T]) -> list[T]:
    """As many as are listed, and one more if there are more. No further ones are looked for."""
    return list(islice(found, MAX_PROBLEMS + 1))


def _problems_of_the_rest(document: Any, errors: list[ErrorDetails]) -> Iterator[Problem]:
    """What the cross-field rules find in the parts of a document that have no problems of their own."""
    if not isinstance(document, dict):
        return
    wrong, wrong_in_space = set(), set()
    space = document.get("search_space")
    for error in errors:
        head, *tail = (str(name) for name in error["loc"][:2]) if error["loc"] else ("",)
        if head == "search_space" and tail and isinstance(space, dict):
            wrong_in_space.add(tail[0])
        elif head in {"", "dataset"}:
            return  # the default augmentation follows the dataset
        else:
            wrong.add(head)
    rest = {name: value for name, value in document.items() if str(name) not in wrong}
    if isinstance(space, dict) and "search_space" not in wrong:
        rest["search_space"] = {name: value for name, value in space.items() if str(name) not in wrong_in_space}
    unread = wrong | {f"search_space.{name}" for name in wrong_in_space}
    if wrong_in_space:
        unread.add("search_space")
    try:
        yield from cross_field_rules.problems(ExperimentSpec.model_validate({"name": "unnamed", **rest}), unread)
    except (ValidationError, RecursionError):
        return


@dataclass(frozen=True)
class _Place:
    """Where a `loc` leads: the path as written, the data there, and what the schema expects next.

    `model` is set where a field name comes next, `keyword` inside a domain's notation, `tagged` where
    pydantic puts the alternative's tag before anything else, `item` in a list whose items may be domains.
    """

    path: str
    node: Any
    model: type[BaseModel] | None = None
    family: tuple[type[Spec], ...] = ()
    annotation: Any = None
    item: Any = None
    searchable: bool = False
    keyword: str | None = None
    tagged: bool = False
    siblings: tuple[type[Spec], ...] = ()
    default: str | None = None  # tag of the member that stands where the field is left out

    def step(self, name: str | int) -> _Place:
        if isinstance(name, int):
            inside = self.node[name] if isinstance(self.node, list | tuple) and name < len(self.node) else None
            place = replace(self, path=f"{self.path}[{name}]", node=inside, tagged=self.keyword == "choice")
            if self.item is None:
                return place
            return replace(place, annotation=self.item, item=None, searchable=True, tagged=True)
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
        item = get_args(info.annotation)[0] if searchable and get_origin(info.annotation) is tuple else None
        searchable = searchable and item is None
        many = isinstance(node, Mapping) and get_origin(info.annotation) is dict
        alone = not searchable and len(family) == 1
        return _Place(
            _join(self.path, name),
            node,
            model=family[0] if alone else None,
            family=family,
            annotation=info.annotation,
            item=item,
            searchable=searchable,
            tagged=searchable and not many,
            default=_tag_of(type(info.default)) if isinstance(info.default, Spec) else None,
        )


def _problems(errors: list[ErrorDetails], data: Any, model: type[Spec]) -> list[Problem]:
    """The problems behind the errors, as many as are listed and one more."""
    around = {error["loc"][:length] for error in errors for length in range(len(error["loc"]))}
    found: dict[tuple[str, str], Problem] = {}
    shapes: set[str] = set()  # fields whose interval has the wrong number of values
    for error in errors:
        if len(found) > MAX_PROBLEMS:
            break
        loc = error["loc"]
        if error["type"] in _COUNTS and loc in around:
            continue  # what is wrong inside is a problem of its own
        place = _Place("", data, model=model)
        for name in loc:
            before, place = place, place.step(name)
        if _is_shape(place, error):
            problem = _shape(place, data, error, model)
            shapes.add(problem.field)
        else:
            problem = _problem(before if loc else place, place, error)
        found.setdefault((problem.field, problem.rule), problem)
    fields = [problem.field for problem in found.values()]
    echoes = {shape for shape in shapes if any(field.startswith(f"{shape}[") for field in fields)}
    return [problem for problem in found.values() if problem.field not in echoes]


def _is_shape(place: _Place, error: ErrorDetails) -> bool:
    """Whether an interval has the wrong number of values, or is no list at all."""
    missing_value = error["type"] == "missing" and bool(error["loc"]) and isinstance(error["loc"][-1], int)
    return place.keyword in KEYWORDS - {"choice"} and (error["type"] in {*_COUNTS, "tuple_type"} or missing_value)


def _problem(before: _Place, place: _Place, error: ErrorDetails) -> Problem:
    found = _bare_problem(before, place, error)
    is_whole = place.searchable and place.keyword is None and found.field == place.path
    hint = domain_hint(place.node, _keywords(place)) if is_whole else ""
    return replace(found, rule=f"{found.rule}; {hint}") if hint and "choice" not in _keys(place.node) else found


def _keys(node: Any) -> Iterable[Any]:
    return node if isinstance(node, Mapping) else ()


def _bare_problem(before: _Place, place: _Place, error: ErrorDetails) -> Problem:
    kind = error["type"]
    if kind == "extra_forbidden":
        return Problem(place.path, _unknown_field(before, str(error["loc"][-1])), shorten(place.node))
    if kind == "missing" and not isinstance(error["loc"][-1], int):
        return Problem(place.path, _missing(before))
    if kind in {"union_tag_invalid", "union_tag_not_found", "model_attributes_type"}:
        return _tag_problem(place, error)
    if isinstance(place.node, Mapping) and place.keyword is None and place.model is None and kind not in _OF_MAPPINGS:
        return Problem(place.path, _not_a_domain(place, rule_of(error)), shorten(place.node))
    if kind == "domain_kind":
        return Problem(place.path, _domain_rule(place), shorten(place.node))
    if kind == "invalid_key":
        return Problem(place.path, "must have strings as keys", shorten(error["loc"][-1]))
    if kind == "field_rule":
        broken = place.step(error["ctx"]["field"])
        return Problem(broken.path, error["ctx"]["rule"], shorten(broken.node))
    if not error["loc"]:
        return Problem("document", rule_of(error), None if isinstance(place.node, Mapping) else shorten(place.node))
    return Problem(place.path, rule_of(error) + (", not null" if place.node is None else ""), shorten(place.node))


_COUNTS = frozenset({"too_short", "too_long"})
_OF_MAPPINGS = frozenset({"domain_kind", "too_long", "too_short"})

#: pydantic's error type -> our rule; the names in braces are of the error's context.
_RULES = {
    "missing": "is required",
    "extra_forbidden": "is not a known field",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": TOO_LARGE,
    "string_type": "must be a string",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
}


_WORDS = {"greater than or equal to": "at least", "less than or equal to": "at most"}


def rule_of(error: ErrorDetails) -> str:
    """The rule that one of pydantic's errors stands for, as `must be X`."""
    if error["type"] == "enum":
        names = error["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        return f"must be one of {', '.join(names)}"
    given = error.get("input")
    if error["type"] in {"int_type", "float_type"} and type(given) in {int, float} and given == given // 1:
        return TOO_LARGE  # a smaller whole number would be read
    if error["type"] in _RULES:
        context = {
            key: f"{value:g}" if isinstance(value, float) else value for key, value in error.get("ctx", {}).items()
        }
        if error["type"] in {"string_too_short", "too_short"} and context["min_length"] == 1:
            return "must not be empty"
        return _RULES[error["type"]].format(**context)
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return message


def _unknown_field(place: _Place, name: str) -> str:
    if place.model is None:
        return "is not a known field"
    known = [field for field in place.model.model_fields if field != "version"]
    owners = [str(_tag_of(cls)) for cls in place.siblings if name in cls.model_fields]
    if owners:
        return f"is not a field of {_tag_of(place.model)}, but of {', '.join(owners)}"
    guess = nearest(name, known)
    if place.model is ExperimentSpec:
        inside = "search_space" if name in SearchSpace.model_fields else ""
        hint = f"write it into {inside}" if inside else root_hint(name)
        if hint:
            return f"is not a known field; {hint}"
    return (
        f"is not a known field; did you mean {guess!r}?"
        if guess
        else f"is not a known field; known are {', '.join(known)}"
    )


def _missing(place: _Place) -> str:
    """A missing field, or a misspelled one: the unknown name has a problem of its own."""
    return f"is required by {_tag_of(place.model)}" if place.siblings and place.model else "is required"


def _shape(place: _Place, data: Any, error: ErrorDetails, model: type[Spec]) -> Problem:
    """The notation of an interval has the wrong number of values."""
    last = max(index for index, name in enumerate(error["loc"]) if name == place.keyword)
    whole = _Place("", data, model=model)
    for name in error["loc"][: last + 1]:
        whole = whole.step(name)
    intervals = FLOAT_DOMAINS + INTEGER_DOMAINS
    (form,) = (domain.form for domain in intervals if domain.keyword == place.keyword)
    return Problem(whole.path, f"must be {form}", shorten(whole.node))


def _tag_problem(place: _Place, error: ErrorDetails) -> Problem:
    node = place.node
    discriminator = str(error.get("ctx", {}).get("discriminator", "")).strip("'")
    tags = [str(_tag_of(member)) for member in place.family]
    one_of = f"must be one of {', '.join(tags)}"
    if not isinstance(node, str | Mapping):
        return Problem(place.path, one_of + (", not null" if node is None else ""), shorten(node))
    if discriminator not in {"kind", "name"}:
        if "choice" in node:
            rule = "must not be a choice inside a choice: write its alternatives into the outer list"
            return Problem(place.path, rule, shorten(node))
        return Problem(place.path, _domain_rule(place), shorten(node))
    if isinstance(node, str):
        return Problem(place.path, unknown(node, tags), shorten(node))
    if discriminator in node:
        name = node[discriminator]
        rule = unknown(name, tags) if isinstance(name, str) else one_of
        return Problem(_join(place.path, discriminator), rule, shorten(name))
    rule = f"must have a {discriminator}, one of {', '.join(tags)}"
    if place.default is not None and not domain_hint(node, _keywords(place)):
        rule += f"; without this block it is {place.default}: for that one, add {discriminator}: {place.default}"
    return Problem(place.path, _not_a_domain(place, rule), shorten(node))


def _not_a_domain(place: _Place, rule: str) -> str:
    """A mapping stands where a value or a domain is meant."""
    if place.item is not None:
        blocks = "to choose between lists, write a choice between blocks that have different lists"
        return f"{rule}; each item may be a domain, the whole list may not: {blocks}"
    if not place.searchable:
        return f"{rule}; this field accepts no domain" if KEYWORDS & set(map(str, place.node)) else rule
    for name in map(str, place.node):
        if name in KEYWORDS:
            others = [str(key) for key in place.node if key != name]
            return f"must contain only the domain: remove {', '.join(others)} or {name}"
    for name in map(str, place.node):
        if (guess := nearest(name, _keywords(place))) and len(place.node) == 1:
            return f"{_domain_rule(place)}; did you mean {guess!r}?"
    return rule if place.family else _domain_rule(place)


def _domain_rule(place: _Place) -> str:
    *some, last = _keywords(place)
    return f"must be a value, {', '.join(some)} or {last}" if some else f"must be a value or {last}"


def _keywords(place: _Place) -> list[str]:
    inner = [domain.keyword for domain in numeric_domains(place.annotation)]
    return inner if place.keyword == "choice" and inner else [*inner, "choice"]


def _tag_of(model: type[BaseModel] | None) -> Any:
    """The name that selects a member of a family: the default of its `kind`, or of a data set's `name`."""
    fields = model.model_fields if model else {}
    return next((fields[name].default for name in ("kind", "name") if name in fields), None)


def _join(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)
