"""Clients of the registry and the queue."""
