"""Views of a tensor: from the coordinates that index it down to plain iterators, one primitive at a time.

``labels[d]`` is the coordinate that indexes dimension ``d``. Undoing a primitive turns the dimension of its top into
dimensions of its bottoms: Split is a reshape, Shift a roll, Stride a slice, Unfold zero padding and windows, and the
two halves of a Merge are joined by a reshape (a half that the tensor lacks is expanded first).
"""
from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from syno_nni.operator.expr import Coordinate, Iterator, MergeLeft, MergeRight, Shift, Split, Stride, Unfold, sibling
from syno_nni.operator.size import Binding


def explode(tensor: Tensor, labels: Sequence[Coordinate], sizes: Binding) -> tuple[Tensor, list[Iterator]]:
    """The tensor indexed by iterators alone; dimensions of other sizes than the binding's (a batch) pass through."""
    current = list(labels)
    while True:
        # Deepest first, so that both halves of a Merge are there by the time either is undone.
        at = max(range(len(current)), key=lambda d: current[d].depth, default=0)
        if not current or isinstance(current[at], Iterator):
            return tensor, current  # type: ignore[return-value]  # nothing but iterators has depth 1
        tensor = undo(tensor, current, at, sizes)


def undo(tensor: Tensor, labels: list[Coordinate], at: int, sizes: Binding) -> Tensor:
    """Undoes the primitive of dimension ``at``; updates ``labels`` in place."""
    node = labels[at]
    if isinstance(node, Split):
        labels[at:at + 1] = [node.left, node.right]
        return tensor.unflatten(at, (node.left.size.value(sizes), node.right.size.value(sizes)))
    if isinstance(node, Shift):
        labels[at] = node.of
        return tensor.roll(-node.offset, at)
    if isinstance(node, Stride):
        labels[at] = node.of
        return tensor.unflatten(at, (node.of.size.value(sizes), node.step.value(sizes))).select(at + 1, 0)
    if isinstance(node, Unfold):
        labels[at:at + 1] = [node.left, node.right]
        window = node.right.size.value(sizes)
        sides = [0, 0] * (tensor.dim() - at - 1) + [window // 2, window - 1 - window // 2]
        return F.pad(tensor, sides).unfold(at, window, 1).movedim(-1, at + 1)
    assert isinstance(node, (MergeLeft, MergeRight)), node
    other = sibling(node)
    if other not in labels:
        labels.append(other)
        tensor = tensor.unsqueeze(-1).expand(*tensor.shape, other.size.value(sizes))
    left, right = (node, other) if isinstance(node, MergeLeft) else (other, node)
    order = [label for label in labels if label != right]
    order.insert(order.index(left) + 1, right)
    tensor = tensor.permute([labels.index(label) for label in order])
    start = order.index(left)
    tensor = tensor.flatten(start, start + 1)
    order[start:start + 2] = [node.of]
    labels[:] = order
    return tensor
