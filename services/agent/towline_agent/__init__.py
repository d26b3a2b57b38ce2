"""The agent: one node's leases, images, containers, logs and outputs."""
