"""torch as it is."""
from __future__ import annotations

from torch import Tensor, nn

from .runtime import InProcess
from .turns import Call


class Eager(InProcess):
    """Runs the module."""
    name = 'eager'

    def prepare(self, model: nn.Module, example: Tensor) -> Call:
        return lambda: model(example)


RUNTIME = Eager()
