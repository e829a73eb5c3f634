"""Exploration strategies."""
