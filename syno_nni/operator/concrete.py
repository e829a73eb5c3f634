"""An operator at one binding: every size a number, and everything that does nothing at these sizes taken out.

A dimension of one element, a window of one, a shift by a multiple of the dimension, a stride of one and a Merge block
of one or of the whole dimension all vanish. The batch dimension stays, whatever its size at the binding.
"""
from __future__ import annotations

from dataclasses import dataclass

from .expr import Coordinate, Iterator, MergeLeft, MergeRight, Out, Shift, Split, Stride, Unfold
from .graph import Graph
from .size import Binding, Size


def extent(node: Coordinate) -> int:
    """The size of a coordinate of a concrete operator."""
    return int(node.size.coefficient)


@dataclass(frozen=True)
class ConcreteOperator:
    """What `Graph` holds, with numbers for sizes.

    Attributes:
        outputs: the output iterators, those of one element included.
        reductions: the sizes of the reductions.
        inputs, weights: the coordinates of every tensor, without dimensions of one element.
        input_shape, weight_shapes: the shapes as given, with them.
        batch: the output iterator that may have any size at run time, if there is one; it is input dimension 0.
    """
    outputs: tuple[Out, ...]
    reductions: tuple[Size, ...]
    inputs: tuple[Coordinate, ...]
    weights: tuple[tuple[Coordinate, ...], ...]
    input_shape: tuple[int, ...]
    weight_shapes: tuple[tuple[int, ...], ...]
    batch: Out | None


def concretize(op: Graph, sizes: Binding) -> ConcreteOperator:
    """The operator at a binding.

    Raises:
        SizeError: a size is not an integer at the binding.
    """
    sizes = op.check_sizes(sizes)
    batch = free_batch(op)
    cache: dict[Coordinate, Coordinate | None] = {}
    read = {c for coordinates in (op.inputs, *op.weights) for c in coordinates}
    read |= {c for node in op.nodes() for c in node.bottom
             if not isinstance(node, (MergeLeft, MergeRight)) or node.size.value(sizes) > 1
             or isinstance(node, MergeLeft) and node.block.value(sizes) == 1}

    def visit(node: Coordinate) -> Coordinate | None:
        if node not in cache:
            bottom = [visit(c) for c in node.bottom]
            seen = any(c in read for c in node.bottom)
            cache[node] = _simplified(node, bottom, sizes, node == batch, Zero(len(cache)), seen)
        return cache[node]

    def tensor(coordinates: tuple[Coordinate, ...]) -> tuple[Coordinate, ...]:
        return tuple(c for c in map(visit, coordinates) if c is not None)

    outputs = tuple(Out(i, Size.of(s.value(sizes))) for i, s in enumerate(op.outputs))
    inputs = tensor(op.inputs)
    halved = _halved(inputs)
    weights = tuple(tuple(halved.get(c, c) for c in tensor(w)) for w in op.weights)
    return ConcreteOperator(outputs, tuple(Size.of(s.value(sizes)) for s in op.reductions), inputs, weights,
                            op.input_shape(sizes), op.weight_shapes(sizes), outputs[batch.index] if batch else None)


def _halved(inputs: tuple[Coordinate, ...]) -> dict[Coordinate, Coordinate]:
    """Coordinates that the data uses only through the halves of one Merge, put together again from these halves.

    Where a weight has such a coordinate whole (``w[o, ...]`` of a grouped convolution, whose data has ``o // B``), the
    halves let it meet the data group by group, rather than the data being repeated for every value of it.
    """
    nodes = {node for c in inputs for node in c.walk()}
    whole = {*inputs, *(c for node in nodes if not isinstance(node, (MergeLeft, MergeRight)) for c in node.bottom)}
    halves: dict[Coordinate, set[Size]] = {}
    for node in nodes:
        if isinstance(node, (MergeLeft, MergeRight)):
            halves.setdefault(node.of, set()).add(node.block)
    return {x: Split(MergeLeft(x, block), MergeRight(x, block))
            for x, blocks in halves.items() if x not in whole and len(blocks) == 1 for block in blocks}


def free_batch(op: Graph) -> Out | None:
    """The first input coordinate, when it is an output iterator that nothing else uses: then any size will do."""
    first, *others = (c for t in (op.inputs, *op.weights) for c in t)
    if isinstance(first, Out) and all(leaf != first for c in others for leaf in c.iterators()):
        return first
    return None


def _simplified(node: Coordinate, bottom: list[Coordinate | None], sizes: Binding, is_batch: bool,
                zero: Zero, seen: bool) -> Coordinate | None:
    """The node with numbers for sizes; None for a coordinate that is always 0.

    ``seen``: something other than a Merge half of one element also uses what the node is computed from.
    """
    size = node.size.value(sizes)
    if isinstance(node, Iterator):
        return None if size == 1 and not is_batch else type(node)(node.index, Size.of(size))
    below = bottom[0]
    if isinstance(node, Split):
        left, right = bottom
        return right if left is None else left if right is None else Split(left, right)
    if isinstance(node, Unfold):
        left, right = bottom
        if right is None:
            return left
        # A window over one element still reads zeros beside it.
        return Unfold(zero if left is None else left, right)
    if below is None:
        return Stride(zero, Size.of(size)) if isinstance(node, Stride) and size > 1 else None
    if isinstance(node, Shift):
        offset = node.offset % size
        return Shift(below, offset) if offset else below
    if isinstance(node, Stride):
        step = node.step.value(sizes)
        return Stride(below, Size.of(step)) if step != 1 else below
    assert isinstance(node, (MergeLeft, MergeRight)), node
    block = node.block.value(sizes)
    whole = int(below.size.coefficient)
    if block in (1, whole):
        if (block == 1) == isinstance(node, MergeLeft):
            return below
        # Always 0, yet windows beneath still decide which products count, unless something else reads them too.
        if seen or not any(isinstance(n, Unfold) for n in below.walk()):
            return None
    return type(node)(below, Size.of(block))


class Zero(Out):
    """The coordinate of a dimension of one element, where a primitive needs one; ``index`` tells them apart."""

    __slots__ = ()
    kind = 'zero'

    def __init__(self, index: int) -> None:
        super().__init__(index, Size.of(1))
