"""What a team may use in each month."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

MAX_HOURS = 100_000_000


def upgrade() -> None:
    op.create_table(
        "budgets",
        sa.Column("team_id", sa.String(63), nullable=False),
        sa.Column("gpu_hours", sa.Double(), nullable=True),
        sa.Column("slot_hours", sa.Double(), nullable=True),
        sa.Column("action", sa.String(8), nullable=False),
        sa.Column("announced", sa.String(16), nullable=False, server_default=""),
        *(
            sa.CheckConstraint(f"{name} IS NULL OR {name} BETWEEN 0 AND {MAX_HOURS}", name=op.f(f"ck_budgets_{name}"))
            for name in ("gpu_hours", "slot_hours")
        ),
        sa.CheckConstraint("action IN ('warn', 'hold')", name=op.f("ck_budgets_action")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_budgets_team_id")),
        sa.PrimaryKeyConstraint("team_id", name=op.f("pk_budgets")),
    )


def downgrade() -> None:
    op.drop_table("budgets")
