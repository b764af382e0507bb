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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import yaml

from search_spaces.domains import MAX_INTEGER
from search_spaces.problems import Problem, SpecError, shorten

MAX_DEPTH = 32
MAX_BYTES = 64 * 1024
_TOO_DEEP = f"must be nested at most {MAX_DEPTH} levels deep"
#: NUL and lone surrogates, which databases refuse in a text.
NOT_STORABLE = re.compile("[\0\ud800-\udfff]")
MAX_DIGITS = 100  # of a whole number: a longer one is not shown
_NAMES = {list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number", type(None): "nothing"}
TOO_LARGE = "must be a whole number of at most 2^53"
MAX_CONVERTED_DIGITS = 4_000  # Python converts at most 4,300, because the time grows with the square
JSON_TYPES = frozenset({"application/json"})
#: Not text/plain, which any web page may send in the name of its reader.
YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"})


def read_file(file: BinaryIO) -> bytes:
    """The bytes of a document. Raises SpecError for one that is too large, of which no more is read than tells so."""
    body = file.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        _refuse(f"must have at most {MAX_BYTES} bytes (got more)")
    return body


def read(body: bytes, media_type: str) -> dict[str, Any]:
    """The mapping that `body` holds. Raises SpecError with what is wrong, and at which line and column."""
    media_type = media_type.partition(";")[0].strip().lower()
    if media_type not in JSON_TYPES | YAML_TYPES:
        _refuse(f"must be application/json or application/yaml (got {media_type or 'nothing'})", "content-type")
    if len(body) > MAX_BYTES:
        _refuse(f"must have at most {MAX_BYTES} bytes (got {len(body)})")
    text = _decode(body)
    if not text.strip():
        _refuse("must be a mapping of fields (got an empty document)")
    try:
        data = _json(text) if media_type in JSON_TYPES else _yaml(text)
        fault = _fault(data)
    except RecursionError:
        _refuse(_TOO_DEEP)
    if fault is not None:
        rule, path = fault
        _refuse(rule, "document" if rule == _TOO_DEEP else ascii(path.removeprefix("."))[1:-1] or "document")
    if not isinstance(data, dict):
        _refuse(f"must be a mapping of fields (got {_NAMES[type(data)]})")
    return data


def _decode(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse(f"must be UTF-8 text (got byte 0x{body[error.start]:02x} at offset {error.start})")


def _json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_int=_whole_number, parse_float=_real_number)
    except json.JSONDecodeError as error:
        _refuse(f"line {error.lineno}, column {error.colno}: malformed JSON: {error.msg}")


def _whole_number(text: str) -> int:
    """For a number that is too long to be converted, one that is too large as well: `number_faults` refuses it with its
    path."""
    if len(text) <= MAX_CONVERTED_DIGITS:
        return int(text, 0 if text[:2] in {"0x", "0o"} else 10)
    too_large: int = 10**MAX_DIGITS
    return -too_large if text.startswith("-") else too_large


def _real_number(text: str) -> float:
    """Without the sign of -0.0, with which a value would differ from itself."""
    return float(text) + 0.0


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        _refuse(f"must have each key once (got {shorten(twice)!r} twice in one object)")
    return fields


def _yaml(text: str) -> Any:
    if found := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        _refuse(f"line {line}: malformed YAML: character U+{ord(found[0]):04X} is not allowed")
    events = yaml.parse(text, Loader=LOADER)
    try:
        next(events)  # the begin of the stream
        if isinstance(next(events), yaml.StreamEndEvent):
            return None
        data = _node(next(events), events, 1)
        next(events)  # the end of the document
        if not isinstance(event := next(events), yaml.StreamEndEvent):
            _refuse(f"{_at(event.start_mark)}must be one document (got several)")
        return data
    except yaml.MarkedYAMLError as error:
        mark, reasons = error.problem_mark or error.context_mark, [error.context, error.problem]
        lines = text.split("\n")
        end = f"line {len(lines)}, column {len(lines[-1]) + 1}: "
        place = end if mark and mark.line >= len(lines) else _at(mark)  # libyaml puts the end into a line of its own
        _refuse(f"{place}malformed YAML: {', '.join(filter(None, reasons))}")


def _node(event: Any, events: Iterator[Any], depth: int) -> Any:
    """What begins with `event`, with the types of YAML 1.2."""
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        _refuse(f"{_at(event.start_mark)}must not have anchors or aliases (got {shorten(event.anchor)})")
    if event.tag is not None:
        _refuse(f"{_at(event.start_mark)}must not have tags (got {shorten(event.tag)})")
    if depth > MAX_DEPTH:
        _refuse(f"{_at(event.start_mark)}{_TOO_DEEP}")
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event)
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_node(event, events, depth + 1))
        return items
    fields: dict[str, Any] = {}
    lines: dict[str, int] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        name = _node(event, events, depth + 1)
        if not isinstance(name, str):
            _refuse(f"{_at(event.start_mark)}must have strings as keys (got {shorten(name)})")
        if name in fields:
            again = f"got {shorten(name)!r} again, first in line {lines[name]}"
            _refuse(f"{_at(event.start_mark)}must have each key once ({again})")
        lines[name] = event.start_mark.line + 1
        fields[name] = _node(next(events), events, depth + 1)
    return fields


def _scalar(event: Any) -> Any:
    text: str = event.value
    is_plain, _ = event.implicit
    kind = _CORE.fullmatch(text) if is_plain else None
    match kind and kind.lastgroup:
        case "bool":
            return text.lower() == "true"
        case "null":
            return None
        case "int":
            return _whole_number(text)
        case "float":
            return _real_number(text)
        case "special":
            return float(text.replace(".", ""))  # Python writes inf and nan without the dot
    return text


#: libyaml, if PyYAML was built with it as its wheels are. It takes a tenth of the time.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: The core schema of YAML 1.2.2, section 10.3.2.
_CORE = re.compile(
    r"(?P<bool>true|True|TRUE|false|False|FALSE)"
    r"|(?P<null>~|null|Null|NULL|)"
    r"|(?P<int>[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)"
    r"|(?P<float>[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?)"
    r"|(?P<special>[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))"
)


def _fault(data: Any, depth: int = 1) -> tuple[str, str] | None:
    """The first rule that a document breaks, and the path of what breaks it: deep nesting, and what no database can
    store. Paths are built only where there is a fault, so that long keys cost nothing."""
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
    elif isinstance(data, str) and NOT_STORABLE.search(data):
        return "must be text without NUL or lone surrogates", ""
    return None


@dataclass(frozen=True)
class NumberFault:
    """A number that is not finite or too large. `shown` is the number, or how long it is."""

    field: str
    rule: str
    shown: str

    def __str__(self) -> str:
        return f"{self.field}: {self.rule} (got {self.shown})"


def number_faults(data: Any) -> Iterator[NumberFault]:
    """The numbers of a document that are not finite or too large. They are no reason not to read the document:
    `search_spaces.validation` reports them with its other problems."""
    for path, number in _faulty_numbers(data):
        field = path.removeprefix(".")
        if isinstance(number, float):
            yield NumberFault(field, "must be a finite number", str(number))
        else:
            shown = str(number) if abs(number) < 10**MAX_DIGITS else f"more than {MAX_DIGITS} digits"
            yield NumberFault(field, TOO_LARGE, shown)


def _faulty_numbers(data: Any) -> Iterator[tuple[str, float]]:
    """Paths are built only where there is a fault."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from ((f".{key}{path}", number) for path, number in _faulty_numbers(value))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from ((f"[{index}]{path}", number) for path, number in _faulty_numbers(value))
    elif (isinstance(data, float) and not math.isfinite(data)) or (isinstance(data, int) and abs(data) > MAX_INTEGER):
        yield "", data


def _at(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""


def _refuse(rule: str, field: str = "document") -> NoReturn:
    raise SpecError([Problem(shorten(field), rule)])
