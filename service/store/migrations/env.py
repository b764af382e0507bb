"""Alembic's entry: runs on the connection that `Database.migrate` opened, inside its transaction."""

from alembic import context

from service.store.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
context.run_migrations()
