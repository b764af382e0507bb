"""Passwords: how the service stores and checks them.

Owns the hash (argon2id) and what a password must be. It must not know whose password it is, nor how often somebody
tried.
"""

from __future__ import annotations

import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

#: Cost of one hash: what OWASP recommends for argon2id. At most half of `max_requests` (32) are checked at once for one
#: address, so that the memory stays below 1 GB.
TIME_COST, MEMORY_KIB, THREADS = 2, 19 * 1024, 1
#: NIST SP 800-63B-4 asks for 15 characters where the password is the only factor. It names no other rule.
MIN_CHARACTERS = 15
#: Longer texts only cost time.
MAX_CHARACTERS = 256
#: A password of fewer different characters is `aaaa...` or `abcabc...`.
MIN_DIFFERENT = 6


def hash_password(text: str) -> str:
    """The hash to store. It holds its own salt and cost."""
    hashed: str = _hasher().hash(_normal(text))
    return hashed


def check_password(hashed: str | None, text: str) -> bool:
    """Whether a text is the password of a stored hash.

    Without a hash (nobody has this login, or that person has no password) the answer is no, and takes as long: the
    time must not tell which logins exist.
    """
    if len(text) > MAX_CHARACTERS:
        return False
    if hashed is None:
        hash_password(text)  # takes as long as checking one
        return False
    try:
        return bool(_hasher().verify(hashed, _normal(text)))
    except (VerificationError, InvalidHashError):
        return False


def password_problems(text: str, login: str = "") -> list[str]:
    """What is wrong with a new password, as rules; none for one that can be used."""
    problems = []
    if len(text) < MIN_CHARACTERS:
        problems.append(f"must have at least {MIN_CHARACTERS} characters (got {len(text)})")
    if len(text) > MAX_CHARACTERS:
        problems.append(f"must have at most {MAX_CHARACTERS} characters (got {len(text)})")
    if len(set(text)) < MIN_DIFFERENT:
        problems.append(f"must have at least {MIN_DIFFERENT} different characters (got {len(set(text))})")
    if any(unicodedata.category(one) in {"Cc", "Cs"} for one in text):
        problems.append("must not have control characters, and must be UTF-8")
    if login and login.casefold() in text.casefold():
        problems.append("must not contain the login")
    return problems


def _hasher() -> PasswordHasher:
    return PasswordHasher(time_cost=TIME_COST, memory_cost=MEMORY_KIB, parallelism=THREADS)


def _normal(text: str) -> bytes:
    """One form of each character: keyboards differ in how they compose accents."""
    return unicodedata.normalize("NFKC", text).encode("utf-8", "surrogatepass")
