"""Slots that a trial holds while it runs: more than one where it has a GPU for itself."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("trials", sa.Column("slots", sa.Integer(), nullable=False, server_default="1"))


def downgrade() -> None:
    with op.batch_alter_table("trials") as table:
        table.drop_column("slots")
