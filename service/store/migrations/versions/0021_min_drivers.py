"""Of the drivers that may run at once, so many are kept for a pool."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("pools", sa.Column("min_drivers", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("pools", "min_drivers")
