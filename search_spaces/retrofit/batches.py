"""What a batch holds: the arguments of the model, and the labels.

=========================================  ============================================================================
a tensor                                   the input
``(input, label, ...)``                    a loader's batch; the input may be a tensor, or one of these:
    a tuple, or a list of other tensors    several arguments
    a list of images of three axes         one argument, as detectors take it
    a mapping                              keyword arguments
a mapping                                  keyword arguments, the labels under ``labels`` where it has them
=========================================  ============================================================================
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from syno_nni.errors import SlotError

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def arguments_of(batch: Any) -> Arguments:
    """The positional and keyword arguments of the model.

    Raises:
        SlotError: the batch is none of the above.
    """
    if isinstance(batch, (tuple, list)) and batch:
        first = batch[0]
        if isinstance(first, tuple) or (isinstance(first, list) and not _images(first)):
            return tuple(first), {}
        return arguments_of(first) if isinstance(first, Mapping) else ((first,), {})
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if isinstance(batch, Tensor):
        return (batch,), {}
    raise SlotError(f'a batch is a tensor, a mapping of keyword arguments, or (input, label), got {type(batch).__name__}')


def labels_of(batch: Any) -> Any:
    """The labels, or None where the batch has none."""
    if isinstance(batch, (tuple, list)):
        return batch[1] if len(batch) > 1 else None
    return batch.get('labels') if isinstance(batch, Mapping) else None


def call(model: nn.Module, batch: Any) -> Any:
    """What the model returns for a batch."""
    args, kwargs = arguments_of(batch)
    return model(*args, **kwargs)


def _images(values: list) -> bool:
    return all(isinstance(v, Tensor) and v.dim() == 3 for v in values)
