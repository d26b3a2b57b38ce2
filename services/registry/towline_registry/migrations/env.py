"""Runs the migrations in the transaction and on the connection that `migrate` holds."""

from alembic import context

from towline_registry.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table_schema=context.config.attributes["schema"],
    include_schemas=True,
)
with context.begin_transaction():
    context.run_migrations()
