"""The queue service: queues, runs, leases, sessions, logs."""
