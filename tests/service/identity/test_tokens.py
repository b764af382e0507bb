"""The form of a token: recognizable, and wrong when mistyped."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from service.identity import tokens
from service.identity.tokens import ALPHABET, TokenKind


def test_a_token_says_whose_it_is() -> None:
    for kind, prefix in ((TokenKind.PERSON, "rung_p_"), (TokenKind.SERVICE, "rung_s_")):
        token = tokens.make(kind)
        assert token.startswith(prefix)
        assert len(token) == len(prefix) + 43 + 6
        assert set(token.removeprefix(prefix)) <= set(string.ascii_letters + string.digits)
        assert tokens.is_well_formed(token)


def test_a_token_of_today_stays_valid() -> None:
    assert tokens.is_well_formed("rung_p_RJsmSIvKZQI9VIRCs8tV65VyMYWqCPM7rhj0yVFnY584A5myG")


def test_tokens_differ() -> None:
    assert len({tokens.make(TokenKind.PERSON) for _ in range(100)}) == 100


@given(position=st.integers(7, 55), character=st.sampled_from(ALPHABET))
def test_one_wrong_character_is_noticed(position: int, character: str) -> None:
    token = "rung_p_RJsmSIvKZQI9VIRCs8tV65VyMYWqCPM7rhj0yVFnY584A5myG"
    mistyped = token[:position] + character + token[position + 1 :]
    assert tokens.is_well_formed(mistyped) is (mistyped == token)


@given(st.text() | st.from_regex(r"rung_[a-z]_[0-9A-Za-z]{49}\n?", fullmatch=True))
def test_any_other_text_is_no_token(text: str) -> None:
    assert not tokens.is_well_formed(text)
    assert len(tokens.digest(text)) == 64
