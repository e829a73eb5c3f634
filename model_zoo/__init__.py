"""Operators and retrofitted models with their evidence."""
