"""The space of operators and how it is searched."""
