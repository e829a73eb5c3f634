"""The runtimes by name."""
from __future__ import annotations

import importlib
from collections.abc import Sequence

from torch import Tensor, nn

from syno_nni.errors import MeasureError

from . import RUNTIMES
from .runtime import Rounds, Runtime, Timed


def runtime_of(name: str) -> Runtime:
    """A runtime by its name in ``RUNTIMES``.

    Raises:
        MeasureError: there is none of this name.
    """
    if name not in RUNTIMES:
        raise MeasureError(f'unknown runtime {name!r:.80}: choose from {", ".join(RUNTIMES)}')
    return importlib.import_module(f'syno_nni.measure.{name}').RUNTIME


def missing(name: str) -> str:
    """What has to be installed before a runtime can be used; '' when nothing."""
    return runtime_of(name).missing()


def time_in(name: str, models: Sequence[nn.Module], example: Tensor, *, threads: int, rounds: Rounds | None = None) -> Timed:
    """Time models in turns in a runtime; see :meth:`.runtime.Runtime.time`.

    Raises:
        MeasureError: the runtime is unknown or missing, or a model does not compile, export or run in it.
    """
    runtime = runtime_of(name)
    if lacking := runtime.missing():
        raise MeasureError(f'the runtime {name} needs {lacking}')
    return runtime.time(models, example, threads=threads, rounds=rounds or Rounds())
