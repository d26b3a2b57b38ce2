"""Alembic migrations of the schema `registry`; `towline.service.postgres.migrate` runs them at start."""
