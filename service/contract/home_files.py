"""Home files: the files of a home folder that a service and the commands on its machine both know.

It must not know who writes them.
"""

from __future__ import annotations

#: The addresses of a running `rung up`, and the process that runs it.
STACK = "stack.json"
#: The token of a service with one user (RUNG_AUTH=owner), who is anybody that can read the file.
OWNER_TOKEN = "owner_token"
#: The password of MLflow's user in `rung up`, and that user's name.
MLFLOW_PASSWORD = "mlflow_password"
MLFLOW_USER = "rung"
#: The key of a service of `rung up` for secrets in its database.
SECRET_KEY = "secret_key"
#: The storage of a home, and the end of the name of a folder whose restore has not ended.
STORAGE, RESTORING = "storage", ".restoring"
