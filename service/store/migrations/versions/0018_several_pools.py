"""Several pools: the labels of their nodes, and the pool of each experiment. What was stored belongs to the default."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

INDEX = "ix_experiments_queue"
FORMER = [
    "state",
    "team_id",
    "owner_id",
    "cpus_per_trial",
    "gpus_per_trial",
    "priority",
    "created_at",
    "id",
    "retry_at",
]


def upgrade() -> None:
    with op.batch_alter_table("pools") as table:
        table.add_column(sa.Column("labels", sa.JSON(), nullable=False, server_default="{}"))
    with op.batch_alter_table("experiments") as table:
        table.add_column(sa.Column("pool", sa.String(64), nullable=False, server_default="default"))
        table.add_column(sa.Column("pool_nodes", sa.JSON(), nullable=True))
    op.drop_index(INDEX, "experiments")
    op.create_index(INDEX, "experiments", ["state", "pool", *FORMER[1:]])


def downgrade() -> None:
    op.drop_index(INDEX, "experiments")
    op.create_index(INDEX, "experiments", FORMER)
    with op.batch_alter_table("experiments") as table:
        table.drop_column("pool_nodes")
        table.drop_column("pool")
    with op.batch_alter_table("pools") as table:
        table.drop_column("labels")
