"""Priority and size of a trial as columns, so that the queue is read without specs; the index in its order."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

PLAIN_JSON = sa.JSON(none_as_null=True)
INDEX, UNEXPLAINED = "ix_experiments_queue", "ix_experiments_unexplained"


def upgrade() -> None:
    with op.batch_alter_table("experiments") as table:
        table.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
        table.add_column(sa.Column("cpus_per_trial", sa.Double(), nullable=True))
        table.add_column(sa.Column("gpus_per_trial", sa.Double(), nullable=True))
    _fill()
    op.create_index(
        INDEX,
        "experiments",
        ["state", "cpus_per_trial", "gpus_per_trial", "priority", "created_at", "id", "retry_at"],
    )
    empty = sa.text("reason = ''")
    op.create_index(UNEXPLAINED, "experiments", ["state"], sqlite_where=empty, postgresql_where=empty)


def downgrade() -> None:
    op.drop_index(UNEXPLAINED, "experiments")
    op.drop_index(INDEX, "experiments")
    with op.batch_alter_table("experiments") as table:
        for name in ("gpus_per_trial", "cpus_per_trial", "priority"):
            table.drop_column(name)


def _fill() -> None:
    """What spec and controls say. Values that no version accepted stay empty: the scheduler reads the spec itself."""
    rows = sa.table(
        "experiments",
        sa.column("id", sa.String()),
        sa.column("spec", PLAIN_JSON),
        sa.column("controls", PLAIN_JSON),
        sa.column("priority", sa.Integer()),
        sa.column("cpus_per_trial", sa.Double()),
        sa.column("gpus_per_trial", sa.Double()),
    )
    connection = op.get_bind()
    ids = connection.execute(sa.select(rows.c.id)).scalars().all()
    for experiment_id in ids:  # one at a time: the specs of thousands need not fit into memory
        query = sa.select(rows.c.spec, rows.c.controls).where(rows.c.id == experiment_id)
        spec, controls = connection.execute(query).one()
        resources = spec.get("resources", {}) if isinstance(spec, dict) else {}
        resources = resources if isinstance(resources, dict) else {"cpus_per_trial": None}
        cpus, gpus = resources.get("cpus_per_trial", 1), resources.get("gpus_per_trial")
        readable = _is_number(cpus) and (gpus is None or _is_number(gpus))
        priority = controls.get("priority", 0) if isinstance(controls, dict) else 0
        connection.execute(
            sa.update(rows)
            .where(rows.c.id == experiment_id)
            .values(
                priority=priority if isinstance(priority, int) and abs(priority) < 2**31 else 0,
                cpus_per_trial=cpus if readable else None,
                gpus_per_trial=gpus if readable else None,
            )
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**31
