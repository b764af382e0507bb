"""The storage that has the files of the experiments."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "storages",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("identity", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_storages")),
    )


def downgrade() -> None:
    op.drop_table("storages")
