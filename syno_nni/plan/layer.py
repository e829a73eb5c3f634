"""A synthesized operator as a torch module."""
from __future__ import annotations

from typing import Any

import torch
from torch import nn

from syno_nni.operator import Operator
from syno_nni.operator.size import Binding

from .fused_layer import FusedLayer
from .initialize import initialize
from .optimize import plans
from .planned import PlannedLayer


class SynthesizedLayer(PlannedLayer):
    """An operator at a binding, as a layer: one definition for training, inference, compilation and export.

    It takes inputs of any batch size, and of other sizes where the formula allows: height, width or length that no
    weight depends on follow from the input (`syno_nni.plan.resize`).

    Attributes:
        op: the operator.
        sizes: the binding.
        weights: one parameter for each weight of the operator, in its order, with ``op.weight_shapes(sizes)``.
        plan: the library calls that it makes at these sizes, the cheapest by the cost model; `tune` measures.

    Raises:
        SizeError: a size of the operator is not an integer at the binding.
    """

    def __init__(self, op: Operator, sizes: Binding) -> None:
        super().__init__(op, sizes, [nn.Parameter(torch.empty(shape)) for shape in op.weight_shapes(op.check_sizes(sizes))])
        self.plan = plans(op, self.sizes)[0]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new weights (`syno_nni.plan.initialize`)."""
        initialize(self.op, self.sizes, list(self.weights))

    def tune(self, **options: Any) -> SynthesizedLayer:
        """Chooses the plan by measuring; options as for `syno_nni.plan.tuning.optimize_plan`. Returns itself."""
        from .tuning import optimize_plan
        self.plan = optimize_plan(self.op, self.sizes, **{'measure': True, **options})
        return self

    def fuse(self) -> FusedLayer:
        """The deploy form: everything that depends on weights alone computed ahead. `reparameterize_model` finds it."""
        with torch.no_grad():
            return FusedLayer(self.op, self.sizes, self.plan, list(self.weights)).train(self.training)

    def extra_repr(self) -> str:
        return f'{self.op}, sizes={self.sizes}'
