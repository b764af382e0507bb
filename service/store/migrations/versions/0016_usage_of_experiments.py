"""What one experiment has used is found without reading what all others have."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_usage_experiment_id", "usage", ["experiment_id"])


def downgrade() -> None:
    op.drop_index("ix_usage_experiment_id", "usage")
