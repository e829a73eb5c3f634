"""The deploy form of a synthesized layer: a plan with its constants."""
from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from syno_nni.errors import GraphError

from .optimize import Plan


class FusedLayer(nn.Module):
    """A plan with its constants: what is left of a `SynthesizedLayer` for inference."""

    def __init__(self, plan: Plan, constants: Sequence[Tensor], name: str) -> None:
        super().__init__()
        self.plan = plan
        self.name = name
        self.constants = nn.ParameterList(nn.Parameter(c, requires_grad=False) for c in constants)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer that it came from."""
        check_shape(x, self.plan, self.name)
        return self.plan.program(x, list(self.constants))

    def extra_repr(self) -> str:
        return self.name


def check_shape(x: Tensor, plan: Plan, name: str) -> None:
    """Refuses an input that a layer was not built for.

    Raises:
        GraphError: the input has another shape, up to the batch size where any will do.
    """
    wanted = plan.program.shapes[0]
    free = int(plan.batch)
    if x.dim() != len(wanted) or tuple(x.shape[free:]) != wanted[free:]:
        shown = ', '.join(['any' if plan.batch else str(wanted[0]), *map(str, wanted[1:])])
        raise GraphError(f'operator {name} was built for inputs of shape [{shown}], got {list(x.shape)}; build the '
                         'layer for the sizes it will see')
