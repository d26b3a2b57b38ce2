"""Alembic migrations of the schema `queue`; `towline.service.postgres.migrate` runs them at start."""
