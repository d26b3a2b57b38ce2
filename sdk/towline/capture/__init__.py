"""Recording of a run: source, environment, entrypoint."""
