"""Stack: the embedded Ray, MLflow and service of `rung up`, as three children of one foreground process."""

from service.stack.embedded import FORWARDED_SETTINGS, Options, Stack, running, sees_a_node, sees_all, up
from service.stack.home import Addresses, StackError

__all__ = [
    "FORWARDED_SETTINGS",
    "Addresses",
    "Options",
    "Stack",
    "StackError",
    "running",
    "sees_a_node",
    "sees_all",
    "up",
]
