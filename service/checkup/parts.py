"""Parts: the service's own view of each part of the installation.

Owns what is looked at, and what to do about what is found. Each look may hang: `examinations` gives it a thread. What
other systems answer is logged, and not repeated here: everybody may read a finding. It must not know HTTP.
"""

from __future__ import annotations

import logging
import platform
import secrets
from collections.abc import Callable, Mapping
from importlib.metadata import version

from sqlalchemy.exc import SQLAlchemyError

from search_spaces.layout import NAMES
from search_spaces.phrases import counted
from search_spaces.storage.base import open_storage, read_document
from service.context import AppContext, utc_now
from service.contract.checkup import CLOCK_S, Finding, Part, free_space, ok, problem, warning
from service.contract.errors import SEE_LOG
from service.settings import variable

#: The beginning of the name of an experiment's storage that exists only while the storage is examined.
TRIAL_NAME = "checkup-"
#: The folder of the data sets in the home, which nobody has to create.
DEFAULT_DATA = "data"
#: A pass of the reconciler is late after this many of its pauses: a launch may take a minute.
LATE_PASSES = 60

log = logging.getLogger(__name__)


def service(_context: AppContext) -> list[Finding]:
    return [ok(Part.SERVICE, f"Rung {version('rung')} on Python {platform.python_version()} answers")]


def scheduling(context: AppContext) -> list[Finding]:
    settings, measured = context.settings, context.measurements
    left_s = context.observations.look_at_lease()
    if left_s is None or left_s < 0:
        remedy = (
            f"start a service with {variable('reconcile')}=true on this database, or look at the logs of those that run"
        )
        return [
            problem(Part.SCHEDULING, "no replica schedules experiments: nobody holds the lease of the queue", remedy)
        ]
    if not measured.lease_held:
        return [ok(Part.SCHEDULING, "another replica schedules the experiments")]
    age_s = measured.round_age_s
    if age_s is None or age_s > LATE_PASSES * settings.reconcile_s:
        late = "has not ended yet" if age_s is None else f"ended {age_s:.0f} s ago"
        remedy = f"see whether Ray or the storage hang (below); otherwise restart the service; {SEE_LOG}"
        return [problem(Part.SCHEDULING, f"the newest pass over the queue {late}", remedy)]
    return [ok(Part.SCHEDULING, f"this replica schedules the experiments; its newest pass ended {age_s:.1f} s ago")]


def database(context: AppContext) -> list[Finding]:
    try:
        context.database.ping()
        facts = context.database.facts()
        free = context.database.free_bytes()
    except (SQLAlchemyError, OSError) as error:
        log.warning("the database does not answer: %s", error)
        remedy = f"start it, or check {variable('database_url')} and the disk; {SEE_LOG}"
        return [problem(Part.DATABASE, "the database does not answer, or takes no writes", remedy)]
    size = f"{context.database.size_bytes() / 2**20:.1f} MiB"
    found = [ok(Part.DATABASE, f"{facts.product}, {size}, schema {facts.revision}")]
    if facts.revision != facts.newest:
        remedy = "run the same version of Rung in all replicas, and restart this one"
        found = [
            problem(Part.DATABASE, f"the schema is {facts.revision}, but this version needs {facts.newest}", remedy)
        ]
    if not facts.is_unicode:
        remedy = "create a database with ENCODING 'UTF8', and move the data with pg_dump"
        found.append(warning(Part.DATABASE, "the encoding lacks most characters: requests with them fail", remedy))
    if context.database.is_full:
        found.append(problem(Part.DATABASE, "its disk was full at a write of the last seconds", "free some space"))
    if abs(ahead_s := (facts.now - utc_now()).total_seconds()) > CLOCK_S:
        remedy = "synchronize the clocks of both machines (chrony, ntpd)"
        found.append(
            warning(Part.DATABASE, f"its clock and that of the service differ by {abs(ahead_s):.0f} s", remedy)
        )
    if free is not None:
        found.append(free_space(Part.DATABASE, "the disk of the database", free, "free some space"))
    return found


def ray(context: AppContext) -> list[Finding]:
    snapshot, is_unasked = context.cluster_cache.snapshot, not context.cluster_cache.unreachable_reason
    if not context.settings.reconcile and snapshot.cluster is None and is_unasked:
        return [ok(Part.RAY, "this replica does not schedule, so it contacts no Ray")]
    if snapshot.cluster is None:
        remedy = f"start Ray, or check {variable('ray_dashboard_url')} and RAY_AUTH_TOKEN"
        return [problem(Part.RAY, snapshot.why, remedy)]
    cluster = snapshot.cluster
    if not cluster.nodes:
        return [problem(Part.RAY, "Ray answers, but has no node", "start a node: ray start --address ...")]
    nodes = f"{counted(len(cluster.nodes), 'node')} with {cluster.cpus:g} CPUs and {cluster.gpus:g} GPUs"
    kinds = "; ".join(f"{kind.cpus:g} CPUs and {kind.gpus:g} GPUs" for kind in cluster.possible)
    return [ok(Part.RAY, f"Ray answers: {nodes}{kinds and f'; it is asked for nodes with {kinds}'}")]


def mlflow(context: AppContext) -> list[Finding]:
    if context.mlflow_probe.begin().result():
        remedy = (
            f"start it, or check {variable('mlflow_tracking_uri')}, its credentials and its --allowed-hosts; "
            "searches continue, and their curves are delivered later"
        )
        return [problem(Part.MLFLOW, f"MLflow does not answer as it should; {SEE_LOG}", remedy)]
    return [ok(Part.MLFLOW, "MLflow answers")]


def storage(context: AppContext) -> list[Finding]:
    root = context.settings.storage_root
    name = variable("storage_root")
    if context.storage_probe.begin().result():
        remedy = f"mount the storage of this database again; {SEE_LOG}"
        return [problem(Part.STORAGE, f"{name} {root} cannot be read, or is another storage", remedy)]
    tried, marker = open_storage(f"{root}/{TRIAL_NAME}{secrets.token_hex(8)}"), secrets.token_hex(8).encode()
    try:
        free = tried.free_bytes()
        tried.create()
        try:
            tried.artifacts.write(NAMES.marker, marker)
            if read_document(tried.artifacts, NAMES.marker) != marker:
                raise OSError("what was read is not what was written")
        finally:
            tried.remove()
    except OSError as error:
        log.warning("the storage cannot be written: %s", error)
        remedy = f"check its permissions and its space; {SEE_LOG}"
        return [problem(Part.STORAGE, f"the service cannot write to {name} {root}", remedy)]
    found = [ok(Part.STORAGE, f"{name} {root} is this database's, and the service can write to it")]
    if free is not None:
        remedy = "free some space: delete experiments, or set RUNG_KEEP_FILES_DAYS"
        found.append(free_space(Part.STORAGE, "it", free, remedy))
    return found


def data(context: AppContext) -> list[Finding]:
    root = context.settings.data_root
    if root.is_dir():
        return [ok(Part.DATA, f"{variable('data_root')} {root} exists")]
    if root == context.settings.home / DEFAULT_DATA:
        return [ok(Part.DATA, f"{root} does not exist: data sets that are downloaded, and digits, need no folder")]
    remedy = "create it, or mount it; data sets that are downloaded, and digits, work without it"
    if context.settings.data_root_shared:
        return [warning(Part.DATA, f"{variable('data_root')} {root} does not exist", remedy)]
    return [ok(Part.DATA, f"{variable('data_root')} {root} is not on the service's machine, which does not matter")]


#: What is looked at, in the order in which it is shown.
PARTS: Mapping[Part, Callable[[AppContext], list[Finding]]] = {
    Part.SERVICE: service,
    Part.SCHEDULING: scheduling,
    Part.DATABASE: database,
    Part.RAY: ray,
    Part.MLFLOW: mlflow,
    Part.STORAGE: storage,
    Part.DATA: data,
}
