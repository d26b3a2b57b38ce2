"""The watchdog: a small process that outlives the agent and ends containers whose time is over.

Standard library only, here and in all it imports: it stays in memory for as long as containers run.
"""
