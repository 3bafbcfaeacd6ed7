"""Runs the migrations on the connection that the store hands over."""

from __future__ import annotations

from alembic import context

from farm.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes tables by copying them
)
context.run_migrations()
