"""The queue measured through its public API, beside the PostgreSQL task queues that others use."""
