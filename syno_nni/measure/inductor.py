"""``torch.compile`` with freezing: weights folded into constants and pre-arranged for the kernels."""
from __future__ import annotations

from types import FunctionType

import torch
from torch import Tensor, nn

from syno_nni.errors import MeasureError

from .runtime import InProcess
from .turns import Call


class Inductor(InProcess):
    """Compiles the module for the shape of the example."""
    name = 'inductor'

    def begin(self) -> None:
        torch._dynamo.reset()  # once, before all: it also forgets how the models before it were compiled

    def prepare(self, model: nn.Module, example: Tensor) -> Call:
        import torch._inductor.config as config

        def forward(x: Tensor) -> object:
            return model(x)

        # Code of its own: what dynamo compiles it looks up by code, and past a few entries it gives up and runs eagerly.
        own = FunctionType(forward.__code__.replace(), forward.__globals__, closure=forward.__closure__)
        compiled = torch.compile(own, dynamic=False)
        with config.patch(freezing=True):
            try:
                compiled(example)
            except Exception as error:
                raise MeasureError(f'the model does not compile: {type(error).__name__}: {error}') from error
        return lambda: compiled(example)


RUNTIME = Inductor()
