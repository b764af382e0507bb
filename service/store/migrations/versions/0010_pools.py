"""Pools and grants, by which slots are shared; what an experiment without a slot waits for; the index of the queue by
teams and people."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

INDEX = "ix_experiments_queue"
FORMER = ["state", "cpus_per_trial", "gpus_per_trial", "priority", "created_at", "id", "retry_at"]


def upgrade() -> None:
    op.create_table(
        "pools",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("stop", sa.String(8), nullable=False),
        sa.Column("min_run_s", sa.Double(), nullable=False),
        sa.Column("preempt_grace_s", sa.Double(), nullable=False),
        sa.CheckConstraint("stop IN ('none', 'hold', 'drain')", name=op.f("ck_pools_stop")),
        sa.CheckConstraint("min_run_s BETWEEN 0 AND 1000000", name=op.f("ck_pools_min_run_s")),
        sa.CheckConstraint("preempt_grace_s BETWEEN 0 AND 1000000", name=op.f("ck_pools_preempt_grace_s")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_pools")),
    )
    op.create_table(
        "grants",
        sa.Column("pool", sa.String(64), nullable=False),
        sa.Column("team_id", sa.String(63), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("quota", sa.Double(), nullable=False),
        sa.Column("limit", sa.Double(), nullable=True),
        sa.Column("max_running", sa.Integer(), nullable=True),
        sa.Column("max_queued", sa.Integer(), nullable=True),
        sa.Column("max_priority", sa.Integer(), nullable=True),
        sa.CheckConstraint("weight BETWEEN 1 AND 1000000", name=op.f("ck_grants_weight")),
        sa.CheckConstraint("quota BETWEEN 0 AND 1000000", name=op.f("ck_grants_quota")),
        sa.CheckConstraint('"limit" IS NULL OR "limit" BETWEEN 0 AND 1000000', name=op.f("ck_grants_limit")),
        sa.ForeignKeyConstraint(["pool"], ["pools.name"], name=op.f("fk_grants_pool"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_grants_team_id")),
        sa.PrimaryKeyConstraint("pool", "team_id", name=op.f("pk_grants")),
    )
    with op.batch_alter_table("experiments") as table:
        table.add_column(sa.Column("waits_for", sa.String(16), nullable=False, server_default=""))
        table.add_column(sa.Column("stop_epochs", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.drop_index(INDEX, "experiments")
    op.create_index(INDEX, "experiments", ["state", "team_id", "owner_id", *FORMER[1:]])


def downgrade() -> None:
    op.drop_index(INDEX, "experiments")
    op.create_index(INDEX, "experiments", FORMER)
    with op.batch_alter_table("experiments") as table:
        table.drop_column("stop_epochs")
        table.drop_column("waits_for")
    op.drop_table("grants")
    op.drop_table("pools")
