"""What the agent decides, without I/O, clocks or randomness of its own."""
