"""Stack: the embedded Ray, MLflow and service of `rung up`, as three children of one foreground process."""

from service.stack.embedded import Options, Stack, running, up
from service.stack.home import Addresses, StackError, owner_token

__all__ = ["Addresses", "Options", "Stack", "StackError", "owner_token", "running", "up"]
