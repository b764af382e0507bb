"""Every bad request is a 4xx that says which field, which rule and which value; nothing is half made."""

from __future__ import annotations

import gzip
import json
import re
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.datastructures import ImmutableMultiDict

from service.api import pagination
from tests.support.world import World

EXPERIMENTS = "/api/v1/experiments"
JSON = "application/json"
YAML = "application/yaml"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def optimizer(**fields: Any) -> dict[str, Any]:
    return {"name": "x", "search_space": {"optimizer": {"kind": "adam", **fields}}}


SPECS: list[tuple[str, dict[str, Any], str, str]] = [
    ("unknown field", {"name": "x", "serch_space": {}}, "serch_space", "did you mean 'search_space'?"),
    (
        "unknown nested field",
        optimizer(learning_rate=1),
        "search_space.optimizer.learning_rate",
        "not a known field",
    ),
    ("unknown kind", optimizer(kind="adma"), "search_space.optimizer.kind", "did you mean 'adam'?"),
    ("low >= high", optimizer(lr={"uniform": [1, 0.1]}), "search_space.optimizer.lr", "must have low < high"),
    ("negative lr", optimizer(lr=-1), "search_space.optimizer.lr", "must be greater than 0"),
    ("log touches zero", optimizer(lr={"loguniform": [0, 1]}), "search_space.optimizer.lr", "must have low > 0"),
    ("max_t below grace", {"name": "x", "asha": {"max_t": 2, "grace_period": 3}}, "asha.grace_period", "at most"),
    (
        "grid over a continuous domain",
        {**optimizer(lr={"uniform": [0.1, 1]}), "searcher": {"kind": "grid"}},
        "search_space.optimizer.lr",
        "must be finite for a grid",
    ),
    (
        "a compiled trial on several gpus",
        {"name": "x", "resources": {"gpus_per_trial": 2}, "execution": {"compile": True}},
        "execution.compile",
        "must be false if resources.gpus_per_trial is more than 1",
    ),
    (
        "more cpus than a node",
        {"name": "x", "resources": {"cpus_per_trial": 9}},
        "resources.cpus_per_trial",
        "at most 8",
    ),
    ("a string for a number", {"name": "x", "seed": "7"}, "seed", "must be a whole number"),
    ("a list for a mapping", {"name": "x", "search_space": []}, "search_space", "must be a mapping"),
    ("a number for a name", {"name": 7}, "name", "must be a string"),
    ("no name", {}, "name", "is required"),
    ("a huge number", {"name": "x", "seed": 10**12}, "seed", "must be less than 2147483648"),
    ("a label too long", {"name": "x", "labels": ["y" * 65]}, "labels[0]", "at most 64 characters"),
]

#: Title, body, media type, the field that the answer names, and the beginning of its rule.
BODIES: list[tuple[str, bytes, str, str, str]] = [
    ("empty", b"", JSON, "document", "must be a mapping of fields (got an empty document)"),
    ("empty yaml", b" \n", YAML, "document", "must be a mapping of fields (got an empty document)"),
    ("malformed json", b'{"name": ', JSON, "document", "line 1, column 10: malformed JSON"),
    ("malformed yaml", b"name: [", YAML, "document", "line 1, column 8: malformed YAML"),
    ("a yaml bomb", BOMB.encode(), YAML, "document", "line 1, column 4: must not have anchors or aliases (got a)"),
    (
        "a yaml tag",
        b"name: !!python/object/apply:os.system [ls]",
        YAML,
        "document",
        "line 1, column 7: must not have tags",
    ),
    (
        "NaN",
        b'{"name": "x", "asha": {"reduction_factor": NaN}}',
        JSON,
        "asha.reduction_factor",
        "must be a finite number",
    ),
    (
        "Infinity",
        b'{"name": "x", "budget": {"gpu_hours": Infinity}}',
        JSON,
        "budget.gpu_hours",
        "must be a finite number",
    ),
    (
        "beyond floats",
        b'{"name": "x", "budget": {"gpu_hours": 1e999}}',
        JSON,
        "budget.gpu_hours",
        "must be a finite number",
    ),
    (".inf", b"{name: x, budget: {gpu_hours: .inf}}", YAML, "budget.gpu_hours", "must be a finite number (got inf)"),
    ("not utf-8", b'{"name": "\xff"}', JSON, "document", "must be UTF-8 text (got byte 0xff at offset 10)"),
    (
        "a lone surrogate",
        b'{"name": "x", "description": "\\ud800"}',
        JSON,
        "description",
        "must be text without NUL or lone",
    ),
    ("NUL", b'{"name": "x", "labels": ["\\u0000"]}', JSON, "labels[0]", "must be text without NUL or lone surrogates"),
    ("deep nesting", b"[" * 50_000, JSON, "document", "must be nested at most 32 levels deep"),
    (
        "deep nesting in yaml",
        b"[" * 50_000,
        YAML,
        "document",
        "line 1, column 33: must be nested at most 32 levels deep",
    ),
    (
        "deep mapping",
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        JSON,
        "document",
        "must be nested at most 32 levels deep",
    ),
    (
        "thousands of digits",
        b'{"name": "x", "seed": ' + b"1" * 6_000 + b"}",
        JSON,
        "seed",
        "must be less than 2147483648 (got more than 100 digits)",
    ),
    ("a list", b"[]", JSON, "document", "must be a mapping of fields (got a list)"),
    ("a string", b'"x"', JSON, "document", "must be a mapping of fields (got text)"),
    ("two documents", b"name: x\n---\nname: y\n", YAML, "document", "line 2, column 1: must be one document"),
]

#: Title, body, media type, status, and what the answer says: no field is at fault.
UNREAD: list[tuple[str, bytes, str, int, str]] = [
    ("5 MB", b'{"name": "' + b"x" * 5_000_000 + b'"}', JSON, 413, "must be at most 131072 bytes (got 5000012)"),
    ("a form", b"name=x", "application/x-www-form-urlencoded", 415, "application/x-www-form-urlencoded"),
    ("no type", b'{"name": "x"}', "", 415, 'must be application/json or application/yaml (got "none")'),
    ("UTF-16", '{"name": "x"}'.encode("utf-16"), f"{JSON}; charset=utf-16", 415, "no charset other than utf-8 (got"),
    ("a quoted charset", b"name: x", f'{YAML};version=1; Charset="Latin-1"', 415, 'other than utf-8 (got "Latin-1")'),
    ("a broken type", b'{"name": "x"}', "\x7f/;;", 415, "must be application/json or application/yaml"),
]


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = json.loads(answer.text, parse_constant=pytest.fail)
    assert document.keys() == {"type", "title", "status", "detail", "errors"}
    assert document["status"] == status
    assert document["type"].startswith("urn:rung:problem:")
    assert document["detail"]
    assert len(answer.content) < 10_000
    return document


def test_every_bad_spec_is_answered_by_field_rule_and_value(world: World) -> None:
    world.reconciler.reconcile_once()
    for title, spec, field, rule in SPECS:
        for query in ({}, {"validate_only": True}):
            document = problem(world.client.post(EXPERIMENTS, json=spec, params=query), 422)
            found = [error for error in document["errors"] if error["field"] == field]
            assert found, (title, document)
            assert rule in found[0]["rule"], (title, document)
    assert world.client.get(EXPERIMENTS).json()["items"] == []


def test_every_bad_body_is_answered_by_field_and_rule(world: World) -> None:
    for title, body, media_type, field, rule in BODIES:
        answer = world.client.post(EXPERIMENTS, content=body, headers={"content-type": media_type})
        (error,) = problem(answer, 422)["errors"]
        assert error["field"] == field, (title, error)
        assert error["rule"].startswith(rule), (title, error)
    for title, body, media_type, status, said in UNREAD:
        answer = world.client.post(EXPERIMENTS, content=body, headers={"content-type": media_type})
        document = problem(answer, status)
        assert said in document["detail"], (title, document)
        (error,) = document["errors"]
        assert error["field"] == {413: "", 415: "Content-Type"}[status], (title, error)
    assert world.client.get(EXPERIMENTS).json()["items"] == []


ADDRESSES = [
    ("GET", "/nowhere", 404),
    ("GET", "/api/v1/nowhere%00", 404),
    ("GET", "/api/v1/presets/digits-quik", 404),
    ("GET", "/api/v1/presets/..%2Fasha", 404),
    ("GET", f"{EXPERIMENTS}/nobody", 404),
    ("GET", f"{EXPERIMENTS}/%00%ff", 404),
    ("GET", f"{EXPERIMENTS}/{'x' * 5000}", 404),
    ("POST", f"{EXPERIMENTS}/k3v9q2mz/cancel", 404),
    ("GET", f"{EXPERIMENTS}/k3v9q2mz/trials", 404),
    ("GET", f"{EXPERIMENTS}/k3v9q2mz/trials/0/curves", 404),
    ("GET", f"{EXPERIMENTS}/k3v9q2mz/trials/x", 422),
    ("GET", f"{EXPERIMENTS}/k3v9q2mz/trials/-1", 422),
    ("GET", f"{EXPERIMENTS}/k3v9q2mz/trials/99999999999999999999", 422),
    ("DELETE", EXPERIMENTS, 405),
    ("PUT", "/healthz", 405),
    ("POST", f"{EXPERIMENTS}?validate_only=perhaps", 422),
    ("POST", f"{EXPERIMENTS}?dry_run=1", 422),
    ("GET", f"{EXPERIMENTS}?limit=0", 422),
    ("GET", f"{EXPERIMENTS}?limit=100000", 422),
    ("GET", f"{EXPERIMENTS}?state=ASLEEP", 422),
    ("GET", f"{EXPERIMENTS}?archived=perhaps", 422),
    ("GET", f"{EXPERIMENTS}?sort=name", 422),
    ("GET", f"{EXPERIMENTS}?project=%00", 422),
    ("GET", f"{EXPERIMENTS}?cursor=x", 422),
    ("GET", f"{EXPERIMENTS}?cursor=%C3%A9", 422),
    ("GET", f"{EXPERIMENTS}?cursor=WzEsMl0", 422),
    ("GET", f"{EXPERIMENTS}?cursor=WyJub3ciLCJhIl0", 422),
]


def test_bad_addresses_and_parameters_are_refused(client: httpx.Client) -> None:
    for method, path, status in ADDRESSES:
        document = problem(client.request(method, path), status)
        assert status != 422 or document["errors"][0]["field"], path


RULES = [
    ("limit=0", "limit", "must be at least 1"),
    ("limit=ten", "limit", "must be a whole number"),
    ("limit=1_0", "limit", "must be a whole number"),
    ("limit=1.0", "limit", "must be a whole number"),
    ("archived=perhaps", "archived", "must be 'false', 'true' or 'all'"),
    ("state=ASLEEP", "state", "must be one of QUEUED, RUNNING, "),
    ("stat=RUNNING", "stat", "is not a known field"),
]


def test_rules_of_parameters_read_like_those_of_specs(client: httpx.Client) -> None:
    for query, field, rule in RULES:
        [error] = problem(client.get(f"{EXPERIMENTS}?{query}"), 422)["errors"]
        assert error == {"field": field, "rule": error["rule"], "value": query.partition("=")[2]}
        assert error["rule"].startswith(rule), query
        assert "nput" not in error["rule"]


def test_utf_8_may_be_declared(world: World) -> None:
    for charset in ("utf-8", '"UTF-8"', "us-ascii"):
        declared = {"content-type": f"{JSON}; charset={charset}"}
        assert world.client.post(EXPERIMENTS, content=b'{"name": "x"}', headers=declared).status_code == 201
    patched = world.client.patch(
        f"{EXPERIMENTS}/{world.submit()}", content=b"{}", headers={"content-type": f"{JSON}; charset=utf-32"}
    )
    assert problem(patched, 415)["errors"][0]["field"] == "Content-Type"


def test_a_compressed_body_is_refused(world: World) -> None:
    """It was read as it is, and called malformed."""
    sent = {"content-type": JSON, "content-encoding": "gzip"}
    one = world.submit()
    for method, path in (
        ("POST", EXPERIMENTS),
        ("PATCH", f"{EXPERIMENTS}/{one}"),
        ("POST", f"{EXPERIMENTS}/{one}/continue"),
    ):
        answer = world.client.request(method, path, content=gzip.compress(b'{"name": "x"}'), headers=sent)
        said = problem(answer, 415)["detail"]
        assert said == 'Content-Encoding: must be identity: bodies are not decompressed (got "gzip")'
    plain = sent | {"content-encoding": "identity"}
    assert world.client.post(EXPERIMENTS, content=b'{"name": "x"}', headers=plain).status_code == 201


def test_numbers_in_paths_and_queries_are_written_in_digits(world: World) -> None:
    one = f"{EXPERIMENTS}/{world.submit()}"
    for path in ("trials/1.0", "trials/1_0", "trials?limit=1_0", "logs?offset=1_0", "logs?attempt=1.0"):
        assert problem(world.client.get(f"{one}/{path}"), 422)["errors"][0]["rule"] == "must be a whole number", path
    assert problem(world.client.get("/api/v1/cluster?limit=1_0"), 422)["errors"][0]["field"] == "limit"


@pytest.mark.parametrize("digits", [20, 400, 5000])
def test_numbers_of_many_digits_in_paths_and_queries_are_refused_with_a_limit(world: World, digits: int) -> None:
    one, number = f"{EXPERIMENTS}/{world.submit()}", "9" * digits
    for path in (f"trials/{number}", f"trials?limit={number}", f"logs?offset={number}", f"logs?attempt=-{number}"):
        [error] = problem(world.client.get(f"{one}/{path}"), 422)["errors"]
        assert re.match("must be (at most|at least|less than|a whole number of at most) ", error["rule"]), (path, error)
        assert len(error["value"]) <= 120


REPEATED = [
    ("GET", f"{EXPERIMENTS}?limit=1&limit=2", "limit", "1, 2"),
    ("GET", f"{EXPERIMENTS}?state=QUEUED&state=RUNNING&project=a&project=a", "project", "a, a"),
    ("POST", f"{EXPERIMENTS}?validate_only=true&validate_only=false", "validate_only", "true, false"),
    ("GET", f"{EXPERIMENTS}/nobody/trials?sort=epoch&sort=trial", "sort", "epoch, trial"),
    ("GET", f"{EXPERIMENTS}/nobody/logs?offset=0&offset=1", "offset", "0, 1"),
    ("GET", "/api/v1/cluster?cursor=a&cursor=b", "cursor", "a, b"),
    ("GET", "/api/v1/schema?x=1&x=", "x", "1, "),
    ("HEAD", "/healthz?x=1&x=", "", ""),
    ("POST", "/api/v1/attempts/x/heartbeat?x=1&x=2", "x", "1, 2"),
]


def test_a_parameter_that_is_given_twice_is_refused_by_every_route(client: httpx.Client) -> None:
    for method, path, name, values in REPEATED:
        answer = client.request(method, path)
        if method == "HEAD":
            assert answer.status_code == 422
            continue
        [error] = problem(answer, 422)["errors"]
        assert error == {"field": name, "rule": "must be given once", "value": values}, path
    assert client.get(f"{EXPERIMENTS}?state=QUEUED&state=RUNNING").status_code == 200
    several = problem(client.get(f"{EXPERIMENTS}?limit=1&limit=2&name=a&name=b"), 422)
    assert several["detail"] == 'limit: must be given once (got "1, 2") (and 1 more)'


def test_many_parameters_are_refused_without_a_look_at_all_for_each(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such requests are worked on before any token is checked, between all others."""
    looks = 0

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(parameters: ImmutableMultiDict[str, str], *arguments: Any) -> Any:
            nonlocal looks
            looks += len(parameters._list)
            return method(parameters, *arguments)

        return call

    for name in ("getlist", "multi_items"):
        monkeypatch.setattr(ImmutableMultiDict, name, counted(getattr(ImmutableMultiDict, name)))
    for count in (101, 1_500):
        query = "&".join(f"{number:x}" for number in range(count))
        for method, path in (("GET", EXPERIMENTS), ("GET", "/healthz"), ("POST", "/api/v1/attempts/x/heartbeat")):
            looks = 0
            [error] = problem(client.request(method, f"{path}?{query}"), 422)["errors"]
            assert error == {"field": "query", "rule": "must have at most 100 parameters", "value": count}
            assert looks <= 2 * count
    looks = 0
    states = "&".join(["state=QUEUED"] * 99)
    assert client.get(f"{EXPERIMENTS}?limit=1&{states}").status_code == 200
    assert looks <= 10 * 100


@pytest.mark.parametrize("name", ["Content-Type", "If-Match", "Idempotency-Key"])
def test_a_header_that_is_given_twice_is_refused(client: httpx.Client, name: str) -> None:
    answer = client.post(EXPERIMENTS, content=b"{}", headers=[(name, "a"), (name.lower(), "b")])
    [error] = problem(answer, 422)["errors"]
    assert error == {"field": name, "rule": "must be given once", "value": "a, b"}


def test_a_token_that_is_given_twice_is_refused_and_not_repeated(client: httpx.Client) -> None:
    twice = [("Authorization", "Bearer a"), ("authorization", "Bearer b")]
    for method, path in (("POST", "/api/v1/attempts/x/heartbeat"), ("GET", EXPERIMENTS)):
        answer = problem(client.request(method, path, headers=twice), 422)
        assert answer["detail"] == "Authorization: must be given once"
        assert answer["errors"] == [{"field": "Authorization", "rule": "must be given once", "value": None}]


SORTINGS = [
    "sort=acuracy",
    "sort=validation_acuracy",
    "sort=--epoch",
    "sort=",
    "sort=metrics",
    "sort=__class__",
    "order=desc",
    "state=ASLEEP",
    "cursor=WyItZXBvY2giLDEsMV0",
    "cursor=WyJ0cmlhbCIsbnVsbF0",
    "cursor=WyJ0cmlhbCIsIngiLCJ5Il0",
    "sort=started_at&cursor=WyJzdGFydGVkX2F0IiwieCIsMV0",
    "sort=started_at&cursor=WyJzdGFydGVkX2F0IiwxLDFd",
    "cursor=WyJ0cmlhbCIsMSwxMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDBd",
    "cursor=WyJ0cmlhbCIsTmFOLDFd",
]


def test_bad_sort_keys_and_cursors_are_refused(world: World) -> None:
    one = world.submit()
    for query in SORTINGS:
        problem(world.client.get(f"{EXPERIMENTS}/{one}/trials?{query}"), 422)


@pytest.mark.parametrize("text", ["\0", "\ud800"])
def test_a_cursor_with_what_no_database_stores_is_refused_by_every_list(world: World, text: str) -> None:
    one = f"{EXPERIMENTS}/{world.submit()}"
    at = "2026-11-29T00:00:00+00:00"
    for path, position in (
        (EXPERIMENTS, [at, text]),
        ("/api/v1/cluster", [at, text]),
        ("/api/v1/queue", [1, text]),
        (f"{one}/trials?sort=state", ["state", text, 1]),
    ):
        address = httpx.URL(path).copy_merge_params({"cursor": pagination.encode(position)})
        [error] = problem(world.client.get(address), 422)["errors"]
        assert error["field"] == "cursor"


def test_unknown_names_are_answered_with_the_nearest_known_one(world: World) -> None:
    preset = problem(world.client.get("/api/v1/presets/digits-quik"), 404)
    assert "did you mean 'digits-quick'?" in preset["detail"]
    one = world.submit()
    sort = problem(world.client.get(f"{EXPERIMENTS}/{one}/trials?sort=validation_acuracy"), 422)
    assert "did you mean 'validation_accuracy'?" in sort["errors"][0]["rule"]


def test_a_body_without_a_length_is_limited_too(client: httpx.Client) -> None:
    def endless() -> Any:
        for _ in range(64):
            yield b"x" * 2**16

    answer = client.post(EXPERIMENTS, content=endless(), headers={"content-type": JSON})
    problem(answer, 413)


def test_a_false_content_length_is_refused(client: httpx.Client) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as raw:
        head = f"POST {EXPERIMENTS} HTTP/1.1\r\nHost: [::1]\r\nContent-Type: {JSON}\r\nContent-Length: {10**30}\r\n\r\n"
        raw.sendall(head.encode())
        assert b" 4" in raw.recv(100)
    assert client.get("/healthz").status_code == 200
