"""`towline up`: PostgreSQL, registry, queue and agent on one machine."""
