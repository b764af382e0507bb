"""What may be changed of an experiment, apart from its spec; restarts and cancels of single trials; idempotency."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PLAIN_JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    with op.batch_alter_table("experiments") as table:
        table.add_column(sa.Column("controls", PLAIN_JSON, nullable=True))
        table.add_column(sa.Column("revision", sa.Integer(), nullable=False, server_default="1"))
        table.add_column(sa.Column("source_id", sa.String(16), nullable=True))
        table.add_column(sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True))
        table.add_column(sa.Column("mlflow_closed", sa.Boolean(), nullable=False, server_default=sa.false()))
    _fill_controls()
    with op.batch_alter_table("experiments") as table:
        table.alter_column("controls", existing_type=PLAIN_JSON, nullable=False)
        table.drop_column("num_samples")
    with op.batch_alter_table("trials") as table:
        table.add_column(sa.Column("restarts", sa.Integer(), nullable=False, server_default="0"))
        table.add_column(sa.Column("error_kind", sa.String(16), nullable=True))
        table.add_column(sa.Column("cancel_asked_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("body_sha256", sa.String(64), nullable=False),
        sa.Column("experiment_id", sa.String(16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["experiments.id"],
            name=op.f("fk_idempotency_keys_experiment_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"])


def downgrade() -> None:
    op.drop_table("idempotency_keys")
    state = sa.column("state", sa.String())
    # What is being removed has a state that is not known below; CANCELED is an end like it.
    op.execute(sa.update(sa.table("experiments", state)).where(state == "DELETING").values(state="CANCELED"))
    with op.batch_alter_table("trials") as table:
        for name in ("cancel_asked_at", "error_kind", "restarts"):
            table.drop_column(name)
    with op.batch_alter_table("experiments") as table:
        table.add_column(sa.Column("num_samples", sa.Integer(), nullable=False, server_default="1"))
    _fill_num_samples()
    with op.batch_alter_table("experiments") as table:
        table.alter_column("num_samples", existing_type=sa.Integer(), server_default=None)
        for name in ("mlflow_closed", "archived_at", "source_id", "revision", "controls"):
            table.drop_column(name)


def _table(*more: Any) -> sa.TableClause:
    return sa.table("experiments", sa.column("id", sa.String()), sa.column("controls", PLAIN_JSON), *more)


def _fill_controls() -> None:
    """What the spec says, which until now could not be changed."""
    rows = _table(sa.column("spec", PLAIN_JSON), sa.column("num_samples", sa.Integer()))
    connection = op.get_bind()
    for row in connection.execute(sa.select(rows.c.id, rows.c.spec, rows.c.num_samples)).all():
        spec = row.spec
        controls = {
            "priority": 0,
            "num_samples": row.num_samples,
            "max_concurrent_trials": spec.get("resources", {}).get("max_concurrent_trials"),
            "max_restarts": 3,
            "goal": spec.get("objective", {}).get("goal"),
            "budget": spec.get("budget", {}),
        }
        connection.execute(sa.update(rows).where(rows.c.id == row.id).values(controls=controls))


def _fill_num_samples() -> None:
    rows = _table(sa.column("num_samples", sa.Integer()))
    connection = op.get_bind()
    for row in connection.execute(sa.select(rows.c.id, rows.c.controls)).all():
        connection.execute(sa.update(rows).where(rows.c.id == row.id).values(num_samples=row.controls["num_samples"]))
