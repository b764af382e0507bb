"""How much the files of each experiment take, as it was measured last, and how much those of a team may."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("teams", sa.Column("storage_limit_bytes", sa.BigInteger(), nullable=True))
    op.create_table(
        "storage_use",
        sa.Column("experiment_id", sa.String(16), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("complete_until", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_storage_use_experiment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("experiment_id", name=op.f("pk_storage_use")),
    )


def downgrade() -> None:
    op.drop_table("storage_use")
    op.drop_column("teams", "storage_limit_bytes")
