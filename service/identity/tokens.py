"""Tokens: what they look like. Pure: no database.

`rung_p_` (of a person) or `rung_s_` (of a program), then 43 characters that carry 256 random bits, then 6 of a
checksum. Secret scanners know a token by its prefix; a typing error costs no query. Because the bits are random, a
plain digest is enough to store it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from enum import StrEnum


class TokenKind(StrEnum):
    """Whom a token stands for: a person with all their teams, or a program in one team."""

    PERSON = "person"
    SERVICE = "service"


PREFIXES = {TokenKind.PERSON: "rung_p_", TokenKind.SERVICE: "rung_s_"}
ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
#: 62^43 is above 2^256, and 62^6 above 2^32.
SECRET_CHARACTERS, CHECKSUM_CHARACTERS = 43, 6
FORM = re.compile(rf"rung_[ps]_[0-9A-Za-z]{{{SECRET_CHARACTERS + CHECKSUM_CHARACTERS}}}", re.ASCII)
#: Without 0 o 1 i l u, because people read ids aloud and type them.
ID_ALPHABET, ID_CHARACTERS = "23456789abcdefghjkmnpqrstvwxyz", 10


def make(kind: TokenKind) -> str:
    """A new token."""
    body = PREFIXES[kind] + "".join(secrets.choice(ALPHABET) for _ in range(SECRET_CHARACTERS))
    return body + _checksum(body)


def new_id() -> str:
    """A new id, of a token or a person."""
    return "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_CHARACTERS))


def digest(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def is_well_formed(token: str) -> bool:
    """Whether a text can be a token: its form and its checksum."""
    if FORM.fullmatch(token) is None:
        return False
    return token[-CHECKSUM_CHARACTERS:] == _checksum(token[:-CHECKSUM_CHARACTERS])


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_CHARACTERS):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits
