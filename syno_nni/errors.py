"""Every error that bad input can cause.

A message says what went wrong, where, the value got, the value wanted and what to do about it.
"""
from __future__ import annotations


def shown(value: object, limit: int = 80) -> str:
    """A bad value as error messages show it: bounded, whatever it is."""
    if isinstance(value, (dict, list, tuple, set)):
        return f'a {type(value).__name__} of {len(value)} items'
    if isinstance(value, int) and value.bit_length() > 200:
        return f'an integer of {value.bit_length()} bits'
    try:
        text = repr(value[:limit] if isinstance(value, (str, bytes)) else value)
    except Exception:  # a foreign __repr__ may raise anything
        text = f'a {type(value).__name__}'
    return text if len(text) <= limit else text[:limit - 3] + '...'


class SynoError(Exception):
    """Root of everything that syno-nni raises for bad input."""


class SizeError(SynoError, ValueError):
    """A symbolic size is malformed, or has no integer value at a binding."""


class FormulaError(SynoError, ValueError):
    """A formula cannot be parsed."""


class GraphError(SynoError, ValueError):
    """An operator graph breaks a legality rule, or a file that should hold one does not."""


class SpaceError(SynoError, ValueError):
    """An operator space is impossible, or something does not fit into it."""


class SlotError(SynoError, ValueError):
    """A model has no fitting slot, or an operator does not fit a slot."""


class ConfigError(SynoError, ValueError):
    """A configuration file or a command-line argument is wrong."""


class JournalError(SynoError):
    """A run directory or its journal cannot be read, written or locked."""


class DataError(SynoError):
    """A dataset is missing or malformed."""


class MeasureError(SynoError):
    """A latency cannot be measured, or a kernel fails its numeric check."""


class EngineError(SynoError):
    """The NNI engine cannot start or has failed."""


class ZooError(SynoError):
    """A model zoo entry is missing or malformed."""
