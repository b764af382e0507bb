"""What teams used in a month, and how many notifications wait for a webhook, are known without reading all rows."""

from collections import defaultdict
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

SECONDS = ("slot_seconds", "gpu_seconds", "cpu_seconds")


def upgrade() -> None:
    months = op.create_table(
        "usage_months",
        sa.Column("team_id", sa.String(63), nullable=False),
        sa.Column("month", sa.DateTime(timezone=True), nullable=False),
        *(sa.Column(name, sa.Double(), nullable=False) for name in SECONDS),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_usage_months_team_id")),
        sa.PrimaryKeyConstraint("team_id", "month", name=op.f("pk_usage_months")),
    )
    op.bulk_insert(months, _sums(op.get_bind()))
    waiting = sa.text("next_at IS NOT NULL")
    op.create_index(
        "ix_deliveries_waiting", "deliveries", ["webhook_id"], sqlite_where=waiting, postgresql_where=waiting
    )


def downgrade() -> None:
    op.drop_index("ix_deliveries_waiting", "deliveries")
    op.drop_table("usage_months")


def _sums(connection: sa.Connection) -> list[dict[str, object]]:
    hour, team = sa.column("hour", sa.DateTime(timezone=True)), sa.column("team_id", sa.String)
    columns = [sa.func.sum(sa.column(name, sa.Double)) for name in SECONDS]
    query = sa.select(team, hour, *columns).select_from(sa.table("usage")).group_by(team, hour)
    found: dict[tuple[str, datetime], list[float]] = defaultdict(lambda: [0.0] * len(SECONDS))
    for team_id, when, *seconds in connection.execute(query):
        utc = when.astimezone(UTC) if when.tzinfo else when  # SQLite has no time zones: there, it is UTC
        sums = found[team_id, utc.replace(day=1, hour=0)]
        for index, value in enumerate(seconds):
            sums[index] += value
    return [
        {"team_id": team_id, "month": month, **dict(zip(SECONDS, sums, strict=True))}
        for (team_id, month), sums in found.items()
    ]
