"""How many trials of an experiment share a GPU, where that is measured (`gpus_per_trial: auto`)."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("experiments", sa.Column("packing", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("experiments") as table:
        table.drop_column("packing")
