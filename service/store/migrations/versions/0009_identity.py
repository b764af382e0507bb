"""People, teams, tokens and the audit log; the team and the owner of an experiment; idempotency keys of each principal.

Everything that is stored belongs to the team `default`, and to nobody in particular.
"""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
KEYS = "idempotency_keys"
#: Each database has its own way to refuse a change of a row. TRUNCATE fires no trigger of rows.
GUARDS = {
    "sqlite": [
        f"""CREATE TRIGGER audit_refuses_{what.lower()} BEFORE {what} ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"""
        for what in ("UPDATE", "DELETE")
    ],
    "postgresql": [
        """CREATE FUNCTION refuse_change_of_audit() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$""",
        """CREATE TRIGGER audit_refuses_change BEFORE UPDATE OR DELETE ON audit
        FOR EACH ROW EXECUTE FUNCTION refuse_change_of_audit()""",
        """CREATE TRIGGER audit_refuses_truncate BEFORE TRUNCATE ON audit
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_audit()""",
    ],
}


def upgrade() -> None:
    _create_accounts()
    _create_audit()
    columns = sa.column("id", sa.String()), sa.column("name", sa.String()), sa.column("created_at", TIME)
    teams = sa.table("teams", *columns)
    op.bulk_insert(teams, [{"id": "default", "name": "", "created_at": datetime.now(UTC)}])
    with op.batch_alter_table("experiments") as table:
        table.add_column(sa.Column("team_id", sa.String(63), nullable=False, server_default="default"))
        table.add_column(sa.Column("owner_id", sa.String(16), nullable=True))
        table.add_column(sa.Column("source_team_id", sa.String(63), nullable=True))
        table.create_foreign_key(op.f("fk_experiments_team_id"), "teams", ["team_id"], ["id"])
        table.create_foreign_key(op.f("fk_experiments_owner_id"), "users", ["owner_id"], ["id"])
    op.execute("UPDATE experiments SET source_team_id = 'default' WHERE source_id IS NOT NULL")
    op.create_index(op.f("ix_experiments_owner_id"), "experiments", ["owner_id"])
    op.create_index(op.f("ix_experiments_team_id_created_at_id"), "experiments", ["team_id", "created_at", "id"])
    _replace_keys(sa.Column("principal_id", sa.String(16), nullable=False))


def downgrade() -> None:
    _replace_keys()
    op.drop_index(op.f("ix_experiments_team_id_created_at_id"), "experiments")
    op.drop_index(op.f("ix_experiments_owner_id"), "experiments")
    with op.batch_alter_table("experiments") as table:
        table.drop_constraint(op.f("fk_experiments_owner_id"), type_="foreignkey")
        table.drop_constraint(op.f("fk_experiments_team_id"), type_="foreignkey")
        for name in ("source_team_id", "owner_id", "team_id"):
            table.drop_column(name)
    for name in ("audit", "tokens", "members", "users", "teams"):
        op.drop_table(name)
    if _is_postgresql():
        op.execute("DROP FUNCTION refuse_change_of_audit")


def _create_accounts() -> None:
    op.create_table(
        "teams",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("archived_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_teams")),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("login", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("oidc_issuer", sa.String(512), nullable=True),
        sa.Column("oidc_subject", sa.String(255), nullable=True),
        sa.Column("password_hash", sa.String(255), nullable=True),
        sa.Column("admin", sa.Boolean(), nullable=False),
        sa.Column("disabled_at", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("login", name=op.f("uq_users_login")),
        sa.UniqueConstraint("oidc_issuer", "oidc_subject", name=op.f("uq_users_oidc_issuer_oidc_subject")),
    )
    op.create_table(
        "members",
        sa.Column("team_id", sa.String(63), nullable=False),
        sa.Column("user_id", sa.String(16), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_members_team_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_members_user_id")),
        sa.PrimaryKeyConstraint("team_id", "user_id", name=op.f("pk_members")),
    )
    op.create_index(op.f("ix_members_user_id"), "members", ["user_id"])
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("user_id", sa.String(16), nullable=True),
        sa.Column("team_id", sa.String(63), nullable=True),
        sa.Column("role", sa.String(16), nullable=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("last_used_at", TIME, nullable=True),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_tokens_user_id")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_tokens_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("sha256", name=op.f("uq_tokens_sha256")),
    )
    op.create_index(op.f("ix_tokens_user_id"), "tokens", ["user_id"])
    op.create_index(op.f("ix_tokens_team_id"), "tokens", ["team_id"])


def _create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("principal_kind", sa.String(16), nullable=False),
        sa.Column("principal_id", sa.String(16), nullable=False),
        sa.Column("principal", sa.String(128), nullable=False),
        sa.Column("token_id", sa.String(16), nullable=True),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("team_id", sa.String(63), nullable=True),
        sa.Column("object", sa.String(128), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("change", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_team_id"), "audit", ["team_id"])
    op.create_index(op.f("ix_audit_object"), "audit", ["object"])
    for statement in GUARDS[op.get_bind().dialect.name]:
        op.execute(statement)


def _replace_keys(*principal: sa.Column[str]) -> None:
    """Replace the table of keys by one with or without the principal in its primary key, which keeps the rows.

    Of equal keys of several principals, a schema without principals keeps one.
    """
    connection = op.get_bind()
    plain = (
        sa.column("key", sa.String()),
        sa.column("body_sha256", sa.String()),
        sa.column("experiment_id", sa.String()),
        sa.column("created_at", TIME),
    )
    stored = {row.key: dict(row._mapping) for row in connection.execute(sa.select(*plain).select_from(sa.table(KEYS)))}
    op.drop_index(op.f("ix_idempotency_keys_created_at"), KEYS)
    op.drop_table(KEYS)
    table = op.create_table(
        KEYS,
        *principal,
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("body_sha256", sa.String(64), nullable=False),
        sa.Column("experiment_id", sa.String(16), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["experiments.id"],
            name=op.f("fk_idempotency_keys_experiment_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(*(one.name for one in principal), "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), KEYS, ["created_at"])
    rows = [{**{one.name: "" for one in principal}, **row} for row in stored.values()]
    if rows:
        op.bulk_insert(table, rows)


def _is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"
