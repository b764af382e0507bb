"""The attempts that have just ended are found without reading all."""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

INDEX = "ix_attempts_ended_at"


def upgrade() -> None:
    op.create_index(INDEX, "attempts", ["ended_at"])


def downgrade() -> None:
    op.drop_index(INDEX, "attempts")
