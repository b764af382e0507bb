"""What experiments used in each hour; what teams have borrowed lately."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "usage",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("experiment_id", sa.String(16), nullable=False),
        sa.Column("team_id", sa.String(63), nullable=False),
        sa.Column("pool", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(16), nullable=True),
        *(sa.Column(name, sa.Double(), nullable=False) for name in ("slot_seconds", "gpu_seconds", "cpu_seconds")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_usage_team_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_usage_user_id")),
        sa.PrimaryKeyConstraint("hour", "experiment_id", name=op.f("pk_usage")),
    )
    op.create_index(op.f("ix_usage_team_id_hour"), "usage", ["team_id", "hour"])
    op.create_table(
        "usage_decayed",
        sa.Column("pool", sa.String(64), nullable=False),
        sa.Column("team_id", sa.String(63), nullable=False),
        sa.Column("amount", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_usage_decayed_team_id")),
        sa.PrimaryKeyConstraint("pool", "team_id", name=op.f("pk_usage_decayed")),
    )


def downgrade() -> None:
    op.drop_table("usage_decayed")
    op.drop_index(op.f("ix_usage_team_id_hour"), "usage")
    op.drop_table("usage")
