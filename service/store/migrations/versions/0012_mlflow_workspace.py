"""The workspace of MLflow that has the runs of an experiment."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("experiments", sa.Column("mlflow_workspace", sa.String(63), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("experiments") as table:
        table.drop_column("mlflow_workspace")
