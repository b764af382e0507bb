"""Alembic's entry: runs on the connection that `Database.migrate` opened, inside its transaction."""

from alembic import context

from service.store.accounting import Usage  # noqa: F401 - importing it adds its tables to the metadata
from service.store.models import Experiment

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Experiment.metadata,
    render_as_batch=True,
)
context.run_migrations()
