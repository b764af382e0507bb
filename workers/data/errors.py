"""DataError: the one exception that reading a data set raises."""

from __future__ import annotations


class DataError(Exception):
    """The data cannot be read. The message says which data set, where it was looked for and what to do."""
