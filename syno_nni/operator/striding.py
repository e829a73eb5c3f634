"""An operator of which only every s-th output is wanted."""
from __future__ import annotations

from collections.abc import Mapping

from .expr import Coordinate, Out, Shift, Stride
from .operator import Operator
from .size import Size


def every(op: Operator, steps: Mapping[int, tuple[int, int]]) -> Operator:
    """The operator whose output ``i`` along dimension ``d`` is output ``i * step + offset`` of ``op``.

    Args:
        op: its weights keep their shapes and their order.
        steps: output dimension to (step, offset), the offset below the step. The step must divide the dimension.
    """
    outputs = list(op.outputs)
    made: dict[Coordinate, Coordinate] = {}
    for dimension, (step, offset) in steps.items():
        size = op.outputs[dimension]
        outputs[dimension] = size / Size.of(step)
        node: Coordinate = Out(dimension, outputs[dimension])
        if step != 1:
            node = Stride(node, Size.of(step))
        # The last position is below the size, so nothing goes around.
        made[Out(dimension, size)] = Shift(node, offset) if offset else node

    def rebuilt(node: Coordinate) -> Coordinate:
        if node not in made:
            made[node] = node.rebuild(*map(rebuilt, node.bottom))
        return made[node]

    return Operator.trusted(outputs, op.reductions, map(rebuilt, op.inputs), [[*map(rebuilt, w)] for w in op.weights])
