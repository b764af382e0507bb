"""Parsing: from the bytes of a document, JSON or YAML, to plain data.

Owns what may be in such a document: one mapping of strings, finite numbers, booleans, lists and mappings,
each key once, nested no deeper than MAX_DEPTH. YAML is read as YAML 1.2 (1e-3 is a number, `no` a string,
dates are strings) without anchors, aliases and tags. It must not know the fields of a spec.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

import yaml

from search_spaces.problems import Problem, SpecError, shorten

MAX_DEPTH = 32
MAX_BYTES = 64 * 1024
_TOO_DEEP = f"must be nested at most {MAX_DEPTH} levels deep"
_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")
#: Larger integers are not exact as JSON numbers, nor in a database.
MAX_INTEGER = 2**53
JSON_TYPES = frozenset({"application/json"})
#: Not text/plain, which any web page may send in the name of its reader.
YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"})


def read(body: bytes, media_type: str) -> dict[str, Any]:
    """The mapping that `body` holds. Raises SpecError with what is wrong, and at which line and column."""
    media_type = media_type.partition(";")[0].strip().lower()
    if media_type not in JSON_TYPES | YAML_TYPES:
        _refuse(f"must be application/json or application/yaml (got {media_type or 'nothing'})", "content-type")
    if len(body) > MAX_BYTES:
        _refuse(f"must have at most {MAX_BYTES} bytes (got {len(body)})")
    text = _decode(body)
    if not text.strip():
        _refuse("must be a spec (got an empty document)")
    try:
        data = _json(text) if media_type in JSON_TYPES else _yaml(text)
        fault = _fault(data)
    except RecursionError:
        _refuse(_TOO_DEEP)
    if fault is not None:
        rule, path = fault
        _refuse(rule, "document" if rule == _TOO_DEEP else ascii(path.removeprefix("."))[1:-1] or "document")
    if not isinstance(data, dict):
        _refuse(f"must be a mapping of fields (got {type(data).__name__})")
    return data


def _decode(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse(f"must be UTF-8 text (got byte 0x{body[error.start]:02x} at offset {error.start})")


def _json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        _refuse(f"line {error.lineno}, column {error.colno}: malformed JSON: {error.msg}")
    except ValueError as error:
        if isinstance(error, SpecError):
            raise
        _refuse("must have whole numbers of at most 2^53 (got one of thousands of digits)")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        _refuse(f"must have each key once (got {shorten(twice)!r} twice in one object)")
    return fields


def _yaml(text: str) -> Any:
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        reasons = [error.context, error.problem]
        _refuse(f"{_at(error.problem_mark or error.context_mark)}malformed YAML: {', '.join(filter(None, reasons))}")
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        _refuse(f"line {line}: malformed YAML: character U+{ord(text[error.position]):04X} is not allowed")


class _Loader(yaml.SafeLoader):
    """SafeLoader with the types of YAML 1.2, without anchors, aliases, tags and merge keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  filled below
    depth = 0

    def compose_document(self) -> Any:
        node = super().compose_document()
        if not self.check_event(yaml.StreamEndEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            _refuse(f"{_at(event.start_mark)}must be one document (got several)")
        return node

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        place = _at(event.start_mark)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            _refuse(f"{place}must not have anchors or aliases (got {event.anchor})")
        if getattr(event, "tag", None) is not None:
            _refuse(f"{place}must not have tags (got {event.tag})")
        if self.depth >= MAX_DEPTH:
            _refuse(f"{place}must be nested at most {MAX_DEPTH} levels deep")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, Any] = {}
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            place = _at(key.start_mark)
            if not isinstance(name, str):
                _refuse(f"{place}must have strings as keys (got {shorten(name)})")
            if name in first:
                _refuse(f"{place}must have each key once (got {shorten(name)!r} again, first in line {first[name]})")
            first[name] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: Any) -> None:
        """Merge keys (`<<`) are of YAML 1.1: here they are keys like any other."""

    def integer(self, node: Any) -> int:
        try:
            return int(node.value, 0 if node.value[:2] in {"0x", "0o"} else 10)
        except ValueError:
            _refuse(f"{_at(node.start_mark)}must be a whole number of at most 2^53 (got {len(node.value)} digits)")

    def real(self, node: Any) -> float:
        return float(re.sub(r"\.(?=[a-zA-Z])", "", node.value))


#: The core schema of YAML 1.2.2, section 10.3.2: tag, pattern, first characters.
_CORE = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
)
for _name, _pattern, _first in _CORE:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern})$"), ["" if c == "\0" else c for c in _first]
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.real)


def _fault(data: Any, depth: int = 1) -> tuple[str, str] | None:
    """The first rule that a document breaks, and the path of what breaks it: numbers that are not finite, deep nesting,
    and what no database can store. Paths are built only where there is a fault, so that long keys cost nothing."""
    if depth > MAX_DEPTH:
        return _TOO_DEEP, ""
    if isinstance(data, dict):
        for key, value in data.items():
            if fault := _fault(key):
                return fault
            if fault := _fault(value, depth + 1):
                return fault[0], f".{key}{fault[1]}"
    elif isinstance(data, list):
        for index, value in enumerate(data):
            if fault := _fault(value, depth + 1):
                return fault[0], f"[{index}]{fault[1]}"
    elif isinstance(data, float) and not math.isfinite(data):
        return f"must be a finite number (got {data})", ""
    elif isinstance(data, int) and abs(data) > MAX_INTEGER:
        return "must be a whole number of at most 2^53", ""
    elif isinstance(data, str) and _NOT_STORABLE.search(data):
        return "must be text without NUL or lone surrogates", ""
    return None


def _at(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""


def _refuse(rule: str, field: str = "document") -> NoReturn:
    raise SpecError([Problem(shorten(field), rule)])
