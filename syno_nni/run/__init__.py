"""A run: experiment file, journal, state, run directory, report."""
