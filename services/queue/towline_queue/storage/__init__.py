"""The queue service's PostgreSQL."""
