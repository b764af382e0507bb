"""ID tokens that were exchanged; with which token a token was made."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "used_id_tokens",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_used_id_tokens")),
    )
    with op.batch_alter_table("tokens") as table:
        table.add_column(sa.Column("made_by", sa.String(16), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("tokens") as table:
        table.drop_column("made_by")
    op.drop_table("used_id_tokens")
