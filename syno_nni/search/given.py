"""A model and data that a program holds, for a search in the same process."""
from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from syno_nni.errors import EngineError

MODEL, DATA = f'{__name__}:model', f'{__name__}:data'
"""What a configuration names."""
_given: list[tuple[nn.Module, Mapping[str, Any]]] = []


@contextmanager
def giving(model: nn.Module, data: Mapping[str, Any]) -> Iterator[None]:
    """While this lasts, :func:`model` and :func:`data` return these."""
    _given.append((model, data))
    try:
        yield
    finally:
        _given.pop()


def model() -> nn.Module:
    """A copy of the model that was given."""
    return copy.deepcopy(_current()[0])


def data() -> Mapping[str, Any]:
    """The datasets that were given."""
    return _current()[1]


def _current() -> tuple[nn.Module, Mapping[str, Any]]:
    if not _given:
        raise EngineError('this search was given a model in memory: go on with it by syno_nni.search(model, ..., resume=True)')
    return _given[-1]
