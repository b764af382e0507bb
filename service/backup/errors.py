"""Errors: that a backup or a restore was not made."""


class BackupError(Exception):
    """The message says why, and what to do."""
