"""On which nodes the trials of an experiment are to start. What was stored leaves it to Ray."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("experiments", sa.Column("placement", sa.String(8), nullable=False, server_default=""))
    op.add_column("experiments", sa.Column("slot_nodes", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("experiments") as table:
        table.drop_column("slot_nodes")
        table.drop_column("placement")
