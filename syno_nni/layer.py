"""A synthesized operator as a torch module."""
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .errors import GraphError
from .expr import Out
from .initialize import initialize
from .plan.direct import run
from .size import Binding

if TYPE_CHECKING:
    from .operator import Operator


class SynthesizedLayer(nn.Module):
    """An operator at a binding, as a layer.

    Attributes:
        op: the operator.
        sizes: the binding.
        weights: one parameter for each weight of the operator, in its order, with ``op.weight_shapes(sizes)``.

    Raises:
        SizeError: a size of the operator is not an integer at the binding.
    """

    def __init__(self, op: Operator, sizes: Binding) -> None:
        super().__init__()
        self.op = op
        self.sizes = op.check_sizes(sizes)
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(shape)) for shape in op.weight_shapes(self.sizes))
        self._shape = op.input_shape(self.sizes)
        self._any_batch = batch_is_free(op)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new weights (`syno_nni.initialize`)."""
        initialize(self.op, self.sizes, list(self.weights))

    def forward(self, x: Tensor) -> Tensor:
        """``op.input_shape(sizes)`` to ``op.output_shape(sizes)``, with any batch size.

        Raises:
            GraphError: the input has another shape.
        """
        free = int(self._any_batch)
        if tuple(x.shape[free:]) != self._shape[free:] or x.dim() != len(self._shape):
            wanted = ['any' if self._any_batch else self._shape[0], *self._shape[1:]]
            raise GraphError(f'operator {self.op.id} at {self.sizes} takes an input of shape {wanted}, got '
                             f'{list(x.shape)}; build the layer for the sizes it will see')
        return run(self.op, self.sizes, x, list(self.weights))

    def extra_repr(self) -> str:
        return f'{self.op}, sizes={self.sizes}'


def batch_is_free(op: Operator) -> bool:
    """Whether the first input dimension is an output iterator that nothing else uses: then its size may vary."""
    first, *others = (c for t in (op.inputs, *op.weights) for c in t)
    return isinstance(first, Out) and all(leaf != first for c in others for leaf in c.iterators())
