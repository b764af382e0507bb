"""Secret box: encrypts secrets that the service must be able to read again, such as those that it signs with.

Owns the form of the key and of what is stored. A copy of the database, such as a backup, is worth nothing without the
key, which is a setting. It must not know what the secrets are for.
"""

from __future__ import annotations

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from service.contract.errors import ConflictError


class SecretUnreadableError(Exception):
    """A secret was encrypted with a key that the service does not have, or was changed."""


class SecretBox:
    """The first of the keys encrypts, each of them decrypts: so a key can be replaced. Without keys, nothing can be
    stored."""

    def __init__(self, keys: list[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys]) if keys else None

    def seal(self, text: str) -> str:
        """Raises ConflictError without a key."""
        if self._fernet is None:
            raise ConflictError(
                "this service has no key to store secrets with: an administrator must set RUNG_SECRET_KEY"
            )
        return self._fernet.encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """Raises SecretUnreadableError."""
        if self._fernet is None:
            raise SecretUnreadableError("RUNG_SECRET_KEY is not set")
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken:
            raise SecretUnreadableError("RUNG_SECRET_KEY has another key than the one it was encrypted with") from None
