"""The deploy form of a synthesized layer: a plan with its constants."""
from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from syno_nni.operator import Operator
from syno_nni.operator.size import Binding

from .optimize import Plan
from .planned import PlannedLayer


class FusedLayer(PlannedLayer):
    """A `SynthesizedLayer` for inference: the part of its plan that depends on the input, and constants.

    The constants are for the sizes that the layer was built for. Inputs of another shape are computed from the weights,
    which are kept for that.

    Args:
        op, sizes: the operator and its binding.
        plan: for the weights of the operator.
        weights: of the operator; they are copied.
    """

    def __init__(self, op: Operator, sizes: Binding, plan: Plan, weights: Sequence[Tensor]) -> None:
        copies = [nn.Parameter(w.detach().clone().contiguous(), requires_grad=False) for w in weights]
        super().__init__(op, sizes, copies)
        before, rest, kept = plan.program.split()
        self.constants = nn.ParameterList(
            c if isinstance(c, nn.Parameter) else nn.Parameter(c.detach().clone().contiguous(), requires_grad=False)
            for c in before.constants(copies, kept))
        self.plan = Plan(rest, plan.cost, plan.batch)

    def tensors(self) -> list[Tensor]:
        return list(self.constants)

    def extra_repr(self) -> str:
        return self.op.id
