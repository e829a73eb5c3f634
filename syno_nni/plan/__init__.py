"""Lowering of operators to library calls."""
