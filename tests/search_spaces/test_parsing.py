"""Parsing: the documents that are read, and those that are refused, with the place of the error."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import parsing
from search_spaces.parsing import MAX_BYTES, MAX_DEPTH, number_faults, read
from search_spaces.problems import SpecError

JSON = "application/json"
YAML = "application/yaml"


@pytest.fixture(params=[yaml.CSafeLoader, yaml.SafeLoader], ids=["libyaml", "python"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads YAML by libyaml, and as where PyYAML was built without it."""
    monkeypatch.setattr(parsing, "LOADER", request.param)


def test_yaml_is_read_by_libyaml() -> None:
    assert parsing.LOADER is yaml.CSafeLoader


@pytest.mark.parametrize(
    "media_type", [YAML, "text/yaml", "application/x-yaml", "text/x-yaml; charset=utf-8", "Text/YAML"]
)
def test_yaml_media_types(media_type: str) -> None:
    assert read(b"name: x", media_type) == {"name": "x"}


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.0e-5", 1e-5),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("007", 7),
        ("0x1f", 31),
        ("0o17", 15),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2026-01-31", "2026-01-31"),
        ("~", None),
        ("+.5e1", 5.0),
        ("+7", 7),
        ("-0x1f", "-0x1f"),
        ("0o", "0o"),
        ("\n- a", ["a"]),
        ("|\n  text\n", "text\n"),
        ("<<", "<<"),
        ('"\\u00e9"', "\u00e9"),
        ("", None),
        ("none", "none"),
        ("'1'", "1"),
        ("[1, {b: 2}]", [1, {"b": 2}]),
    ],
)
def test_yaml_has_the_types_of_version_1_2(text: str, value: Any) -> None:
    found = read(f"a: {text}\n".encode(), YAML)["a"]
    assert found == value
    assert type(found) is type(value)


def test_byte_order_marks_are_skipped() -> None:
    assert read(b"\xef\xbb\xbfa: 1", YAML) == read(b'\xef\xbb\xbf{"a": 1}', JSON) == {"a": 1}


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("body", "media_type", "line"),
    [
        (b"", JSON, "document: must be a mapping of fields (got an empty document)"),
        (b" \n", YAML, "document: must be a mapping of fields (got an empty document)"),
        (b"# a comment", YAML, "document: must be a mapping of fields (got nothing)"),
        (b"\xff\xfe", YAML, "document: must be UTF-8 text (got byte 0xff at offset 0)"),
        (b"a: 1", "text/html", "content-type: must be application/json or application/yaml (got text/html)"),
        (b"a: 1", "", "content-type: must be application/json or application/yaml (got nothing)"),
        (b"x" * (MAX_BYTES + 1), YAML, f"document: must have at most {MAX_BYTES} bytes (got {MAX_BYTES + 1})"),
        (b"{", JSON, "document: line 1, column 2: malformed JSON"),
        (b"[1]", JSON, "document: must be a mapping of fields (got a list)"),
        (b"hello", YAML, "document: must be a mapping of fields (got text)"),
        (b'{"a": 1, "a": 2}', JSON, "document: must have each key once (got 'a' twice"),
        (b'{"a": "\\ud800"}', JSON, "a: must be text without NUL or lone surrogates"),
        (b'{"\\u0000": 1}', JSON, "document: must be text without NUL"),
        (b'{"a":' * 20_000, JSON, "document: must have at most 65536 bytes"),
        (b"[" * 60_000, JSON, f"document: must be nested at most {MAX_DEPTH} levels deep"),
        (b"[" * 60_000, YAML, f"document: line 1, column 33: must be nested at most {MAX_DEPTH} levels"),
        (
            b"a: 1\nb: 2\na: 3",
            YAML,
            "document: line 3, column 1: must have each key once (got 'a' again, first in line 1)",
        ),
        (b"a: &x 1\nb: *x", YAML, "document: line 1, column 4: must not have anchors or aliases"),
        (b"a: 1\nb: *x", YAML, "document: line 2, column 4: must not have anchors or aliases"),
        (b"a: !!python/object:os.system 1", YAML, "document: line 1, column 4: must not have tags"),
        (b"a: 1\n---\nb: 2", YAML, "document: line 2, column 1: must be one document (got several)"),
        (b"a: [1, 2\nb: 3", YAML, "document: line 2, column 2: malformed YAML"),
        (b"a:\n\tb: 1", YAML, "document: line 2, column 1: malformed YAML"),
        (b"name: [", YAML, "document: line 1, column 8: malformed YAML"),
        (b"a: b: c", YAML, "document: line 1, column 5: malformed YAML"),
        (b"a: 1\nb: \x07", YAML, "document: line 2: malformed YAML: character U+0007"),
        (b'a: "\\0"', YAML, "a: must be text without NUL"),
        (b"3: x", YAML, "document: line 1, column 1: must have strings as keys (got 3)"),
        (b"? [a]\n: b", YAML, "document: line 1, column 3: must have strings as keys"),
    ],
    ids=lambda value: str(value[:24]) if isinstance(value, bytes) else "",
)
def test_the_error_for_an_invalid_document_has_its_place(body: bytes, media_type: str, line: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(body, media_type)
    assert str(caught.value).startswith(line)


def test_yaml_anchors_are_refused_at_the_first() -> None:
    bomb = b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (c + 1, c + 1, c, c) for c in range(97, 120))
    with pytest.raises(SpecError, match="line 1, column 4: must not have anchors"):
        read(bomb, YAML)


@given(body=st.binary(max_size=200), media_type=st.sampled_from([JSON, YAML]))
def test_bytes_are_read_or_refused(body: bytes, media_type: str) -> None:
    with contextlib.suppress(SpecError):
        assert isinstance(read(body, media_type), dict)


@given(text=st.text(alphabet="ab:{}[]-?,&*!|>'\"#%@ \n\t01e.~<", max_size=60))
def test_yaml_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(SpecError):
        assert isinstance(read(text.encode(), YAML), dict)


@pytest.mark.parametrize(
    ("body", "media_type", "line"),
    [
        (b'{"a": NaN}', JSON, "a: must be a finite number (got nan)"),
        (b'{"a": {"b": -Infinity}}', JSON, "a.b: must be a finite number (got -inf)"),
        (b'{"a": [1e999]}', JSON, "a[0]: must be a finite number (got inf)"),
        (b'{"a": 99999999999999999999}', JSON, "a: must be a whole number of at most 2^53 (got 99999999999999999999)"),
        (b'{"a": -1' + b"0" * 200 + b"}", JSON, "a: must be a whole number of at most 2^53 (got more than 100 digits)"),
        (b'{"a": ' + b"9" * 5000 + b"}", JSON, "a: must be a whole number of at most 2^53 (got more than 100 digits)"),
        (b"a: .nan", YAML, "a: must be a finite number (got nan)"),
        (b"a: -.inf", YAML, "a: must be a finite number (got -inf)"),
        (b"a: 1e999", YAML, "a: must be a finite number (got inf)"),
        (b"a: -" + b"9" * 5000, YAML, "a: must be a whole number of at most 2^53 (got more than 100 digits)"),
        (b"a: 0x" + b"f" * 5000, YAML, "a: must be a whole number of at most 2^53 (got more than 100 digits)"),
    ],
    ids=lambda value: str(value[:24]) if isinstance(value, bytes) else "",
)
def test_numbers_that_cannot_be_used_are_found_in_a_document_that_is_read(
    body: bytes, media_type: str, line: str
) -> None:
    assert [str(problem) for problem in number_faults(read(body, media_type))] == [line]


@pytest.mark.parametrize(("body", "media_type"), [(b'{"a": -0.0, "b": -0e9}', JSON), (b"a: -0.0\nb: -0e9", YAML)])
def test_zero_has_no_sign(body: bytes, media_type: str) -> None:
    assert str(read(body, media_type)) == "{'a': 0.0, 'b': 0.0}"
