"""Auth: the authorization function of MLflow's basic-auth app, for teams that sign in with their tokens of Rung.

Owns which user of MLflow a request acts as: the one with the sender's role in the workspace that the request names.
That user has rights in this workspace only, so that MLflow's own checks isolate teams. Only MLflow's administrator,
which is the service, has a password. It must not know what a role may do.
"""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from flask import Response, g, make_response, request
from mlflow.server import auth
from mlflow.server.handlers import STATIC_PREFIX_ENV_VAR
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME, WORKSPACE_HEADER_NAME, WORKSPACES_DIR_NAME
from werkzeug.datastructures import Authorization

from rung_mlflow.service import Service, UnansweredError

#: The URL of Rung's service, as MLflow's server reaches it.
SERVICE = "RUNG_SERVICE_URL"
#: What others than the administrator may ask for: pages, and what MLflow checks by the rights in a workspace. The rest
#: has names and rights of all teams, makes rights that would outlive a role in Rung, lets its server send requests,
#: or runs commands on its machine, as the assistant does.
KINDS = (
    "artifacts|datasets|experiments|logged-models|metrics|model-versions|registered-models|runs|server-info|traces"
    "|ui-telemetry|upload-artifact|workspaces"
)
OPEN = re.compile(
    "/|/(health|version|graphql|get-artifact|model-versions/get-artifact|static-files/.*)"
    rf"|/(ajax-)?api/\d\.\d/(mlflow/({KINDS})(/.*)?|mlflow/users/current(/permissions)?/?"
    "|mlflow-artifacts/artifacts(/.*)?)",
    re.DOTALL,
)
FILES = re.compile("/(?:ajax-)?api/[^/]+/mlflow-artifacts/artifacts/?(.*)", re.DOTALL)

_service: Service | None = None


def authenticate() -> Authorization | Response:
    """The user of MLflow that the request acts as, or the answer to a request that acts as nobody.

    MLflow asks several times during one request, and must get the same answer.
    """
    if "rung_user" not in g:
        g.rung_user = _authenticate()
    user: Authorization | Response = g.rung_user
    return user


def _authenticate() -> Authorization | Response:
    given = request.authorization
    name, secret = _credentials(given)
    if not secret:
        return auth.make_basic_auth_response()
    if name and name == auth.auth_config.admin_username:
        return auth.authenticate_request_basic_auth()
    try:
        workspaces = _rung().workspaces(name, secret)
    except UnansweredError as error:
        return _unavailable(f"Rung's service does not say what you may do here; try again later ({error})")
    if workspaces is None:
        return auth.make_basic_auth_response()
    path = request.path.removeprefix(os.environ.get(STATIC_PREFIX_ENV_VAR, "").rstrip("/"))
    if not OPEN.fullmatch(path):
        return auth.make_forbidden_response()
    named = (request.headers.get(WORKSPACE_HEADER_NAME) or "").strip()
    # MLflow's pages are asked for without a workspace. Whichever user is taken, it has no rights in the default one.
    user = workspaces.get(named or DEFAULT_WORKSPACE_NAME) or (None if named else next(iter(workspaces.values()), None))
    if user is None or ((named or DEFAULT_WORKSPACE_NAME) == DEFAULT_WORKSPACE_NAME and _is_about_others(path)):
        return auth.make_forbidden_response()
    if not auth.store.has_user(user):
        return _unavailable("Rung has not prepared the workspace of your team yet; try again in a few seconds")
    return Authorization("basic", {"username": user, "password": ""})


def _is_about_others(path: str) -> bool:
    """Whether a request in the default workspace asks for files of the others, which are in a folder of its own. MLflow
    refuses `workspaces/NAME`, but not `./workspaces/NAME`, which names no experiment whose rights it would check."""
    found = FILES.fullmatch(path)
    asked = [found[1], *request.args.getlist("path")] if found else []
    return any(not _is_own(one) for one in asked)


def _is_own(path: str) -> bool:
    """Whether a path of a file is one of the default workspace: also as it was before there were workspaces."""
    decoded = ""
    while path != decoded:
        path, decoded = unquote(path), path
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    return ".." not in parts and (parts[:1] != [WORKSPACES_DIR_NAME] or parts[1:2] == [DEFAULT_WORKSPACE_NAME])


def _credentials(given: Authorization | None) -> tuple[str, str]:
    """What was sent as name and as secret. A browser sends both, a program may send a token without a name."""
    if given is None:
        return "", ""
    if given.type == "basic":
        return str(given.username or ""), str(given.password or "")
    return "", str(given.token or "") if given.type == "bearer" else ""


def _rung() -> Service:
    global _service
    if _service is None:
        _service = Service(os.environ[SERVICE])
    return _service


def _unavailable(why: str) -> Response:
    answer = make_response(why, 503)
    answer.headers["Retry-After"] = "5"
    return answer
