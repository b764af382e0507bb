"""Passwords: how they are stored, and what they must be."""

from __future__ import annotations

import unicodedata

import pytest

from service.identity.passwords import check_password, hash_password, password_problems

PASSWORD = "correct horse battery staple"


def test_only_the_password_matches_its_hash() -> None:
    stored = hash_password(PASSWORD)
    assert stored.startswith("$argon2id$")
    assert PASSWORD not in stored
    assert stored != hash_password(PASSWORD), "each has its own salt"
    assert check_password(stored, PASSWORD)
    for other in ("", PASSWORD.upper(), f"{PASSWORD} ", PASSWORD + "\0", "x" * 100_000, "\ud800"):
        assert not check_password(stored, other)


@pytest.mark.parametrize("stored", [None, "", "plain text", "$argon2id$v=19$m=8,t=1,p=1$broken"])
def test_without_a_usable_hash_no_password_matches(stored: str | None) -> None:
    assert not check_password(stored, PASSWORD)
    assert not check_password(stored, stored or "")


def test_accents_may_be_composed_in_either_way() -> None:
    composed = unicodedata.normalize("NFC", "crème brûlée, déjà vu")
    assert check_password(hash_password(composed), unicodedata.normalize("NFD", composed))


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (PASSWORD, []),
        ("short", ["must have at least 15 characters (got 5)", "must have at least 6 different characters (got 5)"]),
        ("a" * 20, ["must have at least 6 different characters (got 1)"]),
        ("x1y2z3" * 50, ["must have at most 256 characters (got 300)"]),
        ("correct horse\nbattery staple", ["must not have control characters, and must be UTF-8"]),
        ("my login is Alice, and more", ["must not contain the login"]),
    ],
)
def test_what_a_new_password_must_be(text: str, problems: list[str]) -> None:
    assert password_problems(text, "alice") == problems
