"""The Python client of Rung's REST API."""

from service.client.rung import Rung

__all__ = ["Rung"]
