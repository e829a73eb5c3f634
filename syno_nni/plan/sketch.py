"""Layers that are only looked at: what would they do, and how long would it take?"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_sketching: ContextVar[bool] = ContextVar('sketching', default=False)


@contextmanager
def sketching() -> Iterator[None]:
    """Layers that are made in the block get a plan that took little thought, and whatever memory holds for weights."""
    token = _sketching.set(True)
    try:
        yield
    finally:
        _sketching.reset(token)


def is_sketch() -> bool:
    """Whether layers are only looked at."""
    return _sketching.get()
