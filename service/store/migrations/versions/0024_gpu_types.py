"""The GPU types that trials may use, beside their size. What was stored may use any."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

INDEX = "ix_experiments_queue"
SIZE = ["state", "pool", "team_id", "owner_id", "cpus_per_trial", "gpus_per_trial"]
ORDER = ["priority", "created_at", "id", "retry_at"]


def upgrade() -> None:
    op.add_column("experiments", sa.Column("gpu_type", sa.String(512), nullable=False, server_default=""))
    op.drop_index(INDEX, "experiments")
    op.create_index(INDEX, "experiments", [*SIZE, "gpu_type", *ORDER])


def downgrade() -> None:
    op.drop_index(INDEX, "experiments")
    op.create_index(INDEX, "experiments", [*SIZE, *ORDER])
    with op.batch_alter_table("experiments") as table:
        table.drop_column("gpu_type")
