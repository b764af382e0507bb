"""The Python client of Rung's REST API."""

from service.client.client import Client
from service.client.transport import UnreachableError

#: The name of the class before it was called Client.
Rung = Client
#: The name of the error before exceptions ended in Error.
Unreachable = UnreachableError

__all__ = ["Client", "Rung", "Unreachable", "UnreachableError"]
