"""Models: the tables. Owns columns and relations. It must not know rules: those are in `service.domain`.

Nothing reads `Experiment.spec_version` and `Trial.updated_at`: they are for people who query the database.

People, teams and tokens are in `accounts`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, get_args

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    String,
    Text,
    UniqueConstraint,
    false,
    select,
    text,
)
from sqlalchemy.orm import Mapped, column_property, defer, mapped_column, validates

from search_spaces.gpu_types import MAX_CHARACTERS, MAX_GPU_TYPES, SEPARATOR
from search_spaces.pool_names import DEFAULT_POOL
from search_spaces.protocol import DEFAULT_TEAM
from search_spaces.resources import AUTO, PlacementRule
from service.store.accounts import TEAM_CHARACTERS, User
from service.store.base import Base

#: Larger numbers are not copied: no version accepted them, and no column holds them.
MAX_COPIED = 2**31
#: Of weights, slots and seconds that an administrator sets by hand. PostgreSQL takes NaN for larger than any number.
MAX_AMOUNT = 1_000_000
#: Longest name of a pool.
POOL_CHARACTERS = 64
#: Longest list of GPU types, with a separator after each.
GPU_TYPES_CHARACTERS = MAX_GPU_TYPES * (MAX_CHARACTERS + len(SEPARATOR))
#: Fields of a spec that are read of many experiments at once.
IN_LISTS = ("dataset", "labels", "objective")


class Experiment(Base):
    """One search. `spec` is the completed spec as it was accepted; newer versions never rewrite it.

    `revision` grows with every visible change except progress; it is the ETag. `mlflow_closed` means that the statuses
    of its MLflow runs are final. `priority`, `cpus_per_trial`, `gpus_per_trial`, `gpu_type`, `placement` and `pool` are
    copied from `controls` and `spec`, so that the queue is read without them; `cpus_per_trial` is null if the spec has
    no such size, `gpus_per_trial` until it is decided. `gpu_type` has the types of GPUs that are allowed, separated by
    commas; it is empty for any. `packing` is null unless it is measured how many trials share a GPU, and empty until
    then; afterwards `gpus_per_trial` is their share.
    `pool_nodes` is the rule (`search_spaces.pool_nodes`) by which its driver places trials, null before its first one.
    `slot_nodes` has the number of its slots by the id of their node, null where Ray chooses the nodes.
    `excluded_nodes` are ids of nodes that the newest attempt does not use, `leaving_nodes` of those that end soon.
    `source_team_id` is the team of the experiment that this one continues, when it began. `owner` is the login of
    `owner_id`. `waits_for` is the name of a `scheduling.shares.Why` while it has no slot; with `stop_epochs`, trials
    beyond its slots leave their epoch. `mlflow_workspace` is the workspace that has its runs; null where MLflow had
    none when it began. `spec_overview` has the fields IN_LISTS of `spec`, which may be large, and the kinds of `models`
    that it searches; null if an earlier version has written the row since.
    """

    __tablename__ = "experiments"
    __table_args__ = (
        Index(None, "created_at", "id"),
        Index(None, "project", "created_at"),
        Index(None, "team_id", "created_at", "id"),
        Index(
            "ix_experiments_queue",
            *("state", "pool", "team_id", "owner_id", "cpus_per_trial", "gpus_per_trial", "gpu_type"),
            *("priority", "created_at", "id", "retry_at"),
        ),
        Index(
            "ix_experiments_unexplained",
            "state",
            sqlite_where=text("reason = ''"),
            postgresql_where=text("reason = ''"),
        ),
    )

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), index=True)
    project: Mapped[str] = mapped_column(String(128))
    state: Mapped[str] = mapped_column(String(16), index=True)
    phase: Mapped[str] = mapped_column(String(16), default="")
    reason: Mapped[str] = mapped_column(Text, default="")
    spec: Mapped[dict[str, Any]]
    spec_overview: Mapped[dict[str, Any] | None]
    spec_version: Mapped[int]
    warnings: Mapped[list[str]]
    controls: Mapped[dict[str, Any]]
    revision: Mapped[int] = mapped_column(default=1)
    source_id: Mapped[str | None] = mapped_column(String(16))
    attempt: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    retry_at: Mapped[datetime | None]
    slots: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    stop_asked_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    archived_at: Mapped[datetime | None]
    mlflow_closed: Mapped[bool] = mapped_column(default=False)
    mlflow_experiment_id: Mapped[str | None] = mapped_column(String(64))
    mlflow_run_id: Mapped[str | None] = mapped_column(String(64))
    best_trial: Mapped[int | None]
    best_value: Mapped[float | None]
    winner: Mapped[dict[str, Any] | None]
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    cpus_per_trial: Mapped[float | None]
    gpus_per_trial: Mapped[float | None]
    gpu_type: Mapped[str] = mapped_column(String(GPU_TYPES_CHARACTERS), default="", server_default="")
    placement: Mapped[str] = mapped_column(String(8), default="", server_default="")
    packing: Mapped[dict[str, Any] | None]
    pool: Mapped[str] = mapped_column(String(POOL_CHARACTERS), default=DEFAULT_POOL, server_default=DEFAULT_POOL)
    pool_nodes: Mapped[dict[str, Any] | None]
    slot_nodes: Mapped[dict[str, Any] | None]
    excluded_nodes: Mapped[list[str] | None]
    leaving_nodes: Mapped[list[str] | None]
    mlflow_view: Mapped[str | None] = mapped_column(String(64))
    team_id: Mapped[str] = mapped_column(
        String(TEAM_CHARACTERS), ForeignKey("teams.id"), default=DEFAULT_TEAM, server_default=DEFAULT_TEAM
    )
    owner_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"), index=True)
    source_team_id: Mapped[str | None] = mapped_column(String(TEAM_CHARACTERS))
    owner: Mapped[str | None] = column_property(
        select(User.login).where(User.id == owner_id).correlate_except(User).scalar_subquery()
    )
    waits_for: Mapped[str] = mapped_column(String(16), default="", server_default="")
    stop_epochs: Mapped[bool] = mapped_column(default=False, server_default=false())
    mlflow_workspace: Mapped[str | None] = mapped_column(String(TEAM_CHARACTERS))

    @property
    def allowed_gpu_types(self) -> frozenset[str]:
        """The types of GPUs that its trials may use; empty: any."""
        return frozenset(filter(None, self.gpu_type.split(SEPARATOR)))

    @property
    def placement_rule(self) -> PlacementRule | None:
        """Whether its trials start on few nodes or on many; None: Ray chooses."""
        return next((rule for rule in get_args(PlacementRule) if rule == self.placement), None)

    @validates("controls")
    def _copy_priority(self, _: str, controls: dict[str, Any]) -> dict[str, Any]:
        priority = controls.get("priority")
        self.priority = priority if isinstance(priority, int) and abs(priority) < MAX_COPIED else 0
        return controls

    @validates("spec")
    def _copy_resources(self, _: str, spec: dict[str, Any]) -> dict[str, Any]:
        resources = spec.get("resources", {})
        resources = resources if isinstance(resources, dict) else {"cpus_per_trial": None}
        pool = resources.get("pool")
        self.pool = pool if isinstance(pool, str) and len(pool) <= POOL_CHARACTERS else DEFAULT_POOL
        self.gpu_type = _gpu_types(resources.get("gpu_type"))
        self.placement = next((rule for rule in get_args(PlacementRule) if rule == resources.get("placement")), "")
        cpus, gpus = resources.get("cpus_per_trial", 1), resources.get("gpus_per_trial")
        self.packing = {} if gpus == AUTO else None
        gpus = None if gpus == AUTO else gpus
        is_readable = _is_number(cpus) and (gpus is None or _is_number(gpus))
        self.cpus_per_trial, self.gpus_per_trial = (cpus, gpus) if is_readable else (None, None)
        self.spec_overview = {name: spec[name] for name in IN_LISTS if name in spec} | {
            "models": _kinds_of_models(spec)
        }
        return spec


def _gpu_types(given: Any) -> str:
    names = given if isinstance(given, list) else [given]
    text = SEPARATOR.join(sorted({name for name in names if isinstance(name, str)}))
    return text if len(text) <= GPU_TYPES_CHARACTERS else ""


def _kinds_of_models(spec: dict[str, Any]) -> list[str]:
    space = spec.get("search_space")
    model = space.get("model") if isinstance(space, dict) else None
    options = model.get("choice", [model]) if isinstance(model, dict) else []
    kinds = (one.get("kind") for one in options if isinstance(one, dict)) if isinstance(options, list) else ()
    return [kind for kind in kinds if isinstance(kind, str)]


class Label(Base):
    """A label of an experiment. It is outside the spec so that both databases can search for it."""

    __tablename__ = "experiment_labels"

    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), primary_key=True)
    label: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)


class StorageUse(Base):
    """The size of an experiment's files when they were measured. `complete_until`: what was written later may be
    missing in it."""

    __tablename__ = "storage_use"

    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    complete_until: Mapped[datetime]


class Attempt(Base):
    """One driver of an experiment. Its number fences it: only the newest attempt of an experiment may write."""

    __tablename__ = "attempts"
    __table_args__ = (UniqueConstraint("experiment_id", "number"), Index(None, "ended_at"))

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"))
    number: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    phase: Mapped[str] = mapped_column(String(16), default="")
    reason: Mapped[str] = mapped_column(Text, default="")
    token_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    submitted_at: Mapped[datetime | None]
    last_heartbeat_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class Trial(Base):
    """The last update that a driver sent about a trial. `slots`: that it holds while it runs."""

    __tablename__ = "trials"

    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), primary_key=True)
    trial: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    attempt: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    stop_reason: Mapped[str] = mapped_column(Text, default="")
    epoch: Mapped[int] = mapped_column(default=0)
    best_value: Mapped[float | None]
    best_epoch: Mapped[int | None]
    metrics: Mapped[dict[str, Any]]
    parameters: Mapped[dict[str, Any]]
    sample: Mapped[dict[str, Any] | None]
    mlflow_run_id: Mapped[str | None] = mapped_column(String(64))
    restarts: Mapped[int] = mapped_column(default=0)
    error_kind: Mapped[str | None] = mapped_column(String(16))
    slots: Mapped[int] = mapped_column(default=1, server_default="1")
    cancel_asked_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    updated_at: Mapped[datetime]


#: Options of a query of trials without their hyperparameters, samples and metrics, which may be large.
WITHOUT_VALUES = (defer(Trial.parameters), defer(Trial.sample), defer(Trial.metrics))


class IdempotencyKey(Base):
    """A submission that was accepted with a client's key: the same key and body return the same experiment.

    `principal_id` is who sent it; empty without accounts.
    """

    __tablename__ = "idempotency_keys"

    principal_id: Mapped[str] = mapped_column(String(16), primary_key=True, default="")
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_sha256: Mapped[str] = mapped_column(String(64))
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(index=True)


class Lease(Base):
    """Who may act on the queue. `fence` grows with every new owner; a write with an older fence is refused."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64))
    fence: Mapped[int]
    expires_at: Mapped[datetime]


class StoredPool(Base):
    """What is shared: the nodes with all `labels`. The default pool has no labels, and may have no row.

    `stop`: one of `scheduling.shares.Stop`. `min_run_s`: for so long an experiment that has started keeps a slot.
    `preempt_grace_s`: for so long the trials beyond a share that shrank may finish their epoch. `min_drivers`: of the
    drivers that may run at once, so many are kept for the pool.
    """

    __tablename__ = "pools"
    __table_args__ = (
        CheckConstraint("stop IN ('none', 'hold', 'drain')", name="stop"),
        CheckConstraint(f"min_run_s BETWEEN 0 AND {MAX_AMOUNT}", name="min_run_s"),
        CheckConstraint(f"preempt_grace_s BETWEEN 0 AND {MAX_AMOUNT}", name="preempt_grace_s"),
    )

    name: Mapped[str] = mapped_column(String(POOL_CHARACTERS), primary_key=True)
    labels: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    stop: Mapped[str] = mapped_column(String(8), default="none")
    min_run_s: Mapped[float]
    preempt_grace_s: Mapped[float]
    min_drivers: Mapped[int] = mapped_column(default=0, server_default="0")


class StoredGrant(Base):
    """What a team may use of a pool. `quota` and `limit` are in GPUs, or in CPUs where the pool has no GPU."""

    __tablename__ = "grants"
    __table_args__ = (
        CheckConstraint(f"weight BETWEEN 1 AND {MAX_AMOUNT}", name="weight"),
        CheckConstraint(f"quota BETWEEN 0 AND {MAX_AMOUNT}", name="quota"),
        CheckConstraint(f'"limit" IS NULL OR "limit" BETWEEN 0 AND {MAX_AMOUNT}', name="limit"),
    )

    pool: Mapped[str] = mapped_column(ForeignKey("pools.name", ondelete="CASCADE"), primary_key=True)
    team_id: Mapped[str] = mapped_column(String(TEAM_CHARACTERS), ForeignKey("teams.id"), primary_key=True)
    weight: Mapped[float]
    quota: Mapped[float]
    limit: Mapped[float | None]
    max_running: Mapped[int | None]
    max_queued: Mapped[int | None]
    max_priority: Mapped[int | None]


class Storage(Base):
    """The storage that has the files of the experiments: the identity that it must have."""

    __tablename__ = "storages"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    identity: Mapped[str] = mapped_column(String(64))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_COPIED
