"""What the registry keeps in PostgreSQL (schema `registry`)."""
