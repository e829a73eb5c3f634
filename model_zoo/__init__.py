"""Operators and retrofitted models with their evidence."""
from __future__ import annotations

from .entries import ZooEntry, find, load, names

__all__ = ['ZooEntry', 'find', 'load', 'names']
