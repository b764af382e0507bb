"""What lists show of a spec, which may be large."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

PLAIN_JSON = sa.JSON(none_as_null=True)
IN_LISTS = ("dataset", "labels", "objective")


def upgrade() -> None:
    op.add_column("experiments", sa.Column("spec_overview", PLAIN_JSON, nullable=True))
    rows = sa.table(
        "experiments",
        sa.column("id", sa.String()),
        sa.column("spec", PLAIN_JSON),
        sa.column("spec_overview", PLAIN_JSON),
    )
    connection = op.get_bind()
    ids = connection.execute(sa.select(rows.c.id)).scalars().all()
    for experiment_id in ids:  # one at a time: the specs of thousands need not fit into memory
        spec = connection.execute(sa.select(rows.c.spec).where(rows.c.id == experiment_id)).scalar_one()
        overview = {name: spec[name] for name in IN_LISTS if name in spec} if isinstance(spec, dict) else {}
        connection.execute(sa.update(rows).where(rows.c.id == experiment_id).values(spec_overview=overview))


def downgrade() -> None:
    op.drop_column("experiments", "spec_overview")
