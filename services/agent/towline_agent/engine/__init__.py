"""The container engine: what the agent needs of one, and Docker's."""
