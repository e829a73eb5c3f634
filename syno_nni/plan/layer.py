"""A synthesized operator as a torch module."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from syno_nni.operator.size import Binding

from .fused_layer import FusedLayer, check_shape
from .initialize import initialize
from .optimize import Plan, plans

if TYPE_CHECKING:
    from syno_nni.operator import Operator


class SynthesizedLayer(nn.Module):
    """An operator at a binding, as a layer: one definition for training, inference, compilation and export.

    Attributes:
        op: the operator.
        sizes: the binding.
        weights: one parameter for each weight of the operator, in its order, with ``op.weight_shapes(sizes)``.
        plan: the library calls that it makes, the cheapest by the cost model; `tune` measures.

    Raises:
        SizeError: a size of the operator is not an integer at the binding.
    """

    def __init__(self, op: Operator, sizes: Binding) -> None:
        super().__init__()
        self.op = op
        self.sizes = op.check_sizes(sizes)
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(shape)) for shape in op.weight_shapes(self.sizes))
        self.plan: Plan = plans(op, self.sizes)[0]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new weights (`syno_nni.plan.initialize`)."""
        initialize(self.op, self.sizes, list(self.weights))

    def forward(self, x: Tensor) -> Tensor:
        """``op.input_shape(sizes)`` to ``op.output_shape(sizes)``, with any batch size.

        Raises:
            GraphError: the input has another shape.
        """
        check_shape(x, self.plan, self.op.id)
        return self.plan.program(x, list(self.weights))

    def tune(self, **options: Any) -> SynthesizedLayer:
        """Chooses the plan by measuring; options as for `syno_nni.plan.tuning.optimize_plan`. Returns itself."""
        from .tuning import optimize_plan
        self.plan = optimize_plan(self.op, self.sizes, **{'measure': True, **options})
        return self

    def fuse(self) -> FusedLayer:
        """The deploy form: everything that depends on weights alone computed ahead. `reparameterize_model` finds it."""
        before, rest, kept = self.plan.program.split()
        with torch.no_grad():
            constants = [c.detach().clone().contiguous() for c in before.constants(list(self.weights), kept)]
        return FusedLayer(Plan(rest, self.plan.cost, self.plan.batch), constants, self.op.id).train(self.training)

    def extra_repr(self) -> str:
        return f'{self.op}, sizes={self.sizes}'
