"""The original's way to run an operator in torch, re-implemented from its description, as the thing to compare with.

One weight at a time: views first (windows by ``F.unfold``, whose result is a copy), then ``einsum`` over the reductions
that both tensors have, then one ``sum`` for each other reduction; shapes, the batch size included, are baked in. The
order of the weights is the one with the fewest multiply-adds, as in the original.
"""
from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from direct_views import undo
from torch import Tensor, nn

import syno_nni as sn
from syno_nni.operator.explosions import Explosions, low_digits
from syno_nni.operator.expr import Coordinate, Iterator, MergeRight, Sum, Unfold, sibling
from syno_nni.operator.orders import orders

LETTERS = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'


class OriginalScheme(nn.Module):
    """An operator at a binding, run as the original's generated code would."""

    def __init__(self, op: sn.Operator, sizes: dict[str, int]) -> None:
        super().__init__()
        self.op, self.sizes = op, op.check_sizes(sizes)
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(s) * 0.1) for s in op.weight_shapes(sizes))
        in_turn = [order for order in orders(op) if all(stage.on_data for stage in order.stages)]
        cheapest = min(in_turn, key=lambda order: order.macs(sizes))
        explosions = Explosions(op)
        # Everything about coordinates is worked out here: the forward pass only makes library calls.
        self.script: list[tuple] = []
        labels: dict[int, list[Coordinate]] = {1 << n: list(c) for n, c in enumerate((op.inputs, *op.weights))}
        for stage in cheapest.stages:
            used = {s for mask, other in labels.items() if mask not in stage.operands for s in _sums(other)}
            self._stage(explosions, labels, stage.operands, used)
        (last,) = labels
        self._views(last, labels[last], None)
        order = labels[last]
        self.script.append(('output', last, [order.index(o) for o in op.outs() if o in order]))
        self.result = last

    def _stage(self, explosions: Explosions, labels: dict[int, list[Coordinate]], operands: tuple[int, ...],
               used: set[Sum]) -> None:
        if len(operands) == 2:
            first, second = sorted(operands)
            private = {s for m in operands for s in _sums(labels[m])} - used
            targets = explosions.compatible(labels[first], labels[second])
            targets = explosions.exposed_pair(*targets, private)
            for mask, target in zip((first, second), targets):
                self._views(mask, labels[mask], target)
            left, right = labels.pop(first), labels.pop(second)
            both = [x for x in left if x in right and explosions.pure(x, private)]
            kept = [x for x in dict.fromkeys((*left, *right)) if x not in both]
            name = dict(zip(dict.fromkeys((*left, *right)), LETTERS))
            text = [''.join(name[x] for x in term) for term in (left, right, kept)]
            self.script.append(('einsum', first, second, f'{text[0]},{text[1]}->{text[2]}'))
            labels[first | second] = kept
        (mask,) = (m for m in labels if m == sum(operands))
        private = _sums(labels[mask]) - used
        for reduction in sorted(private, key=lambda s: s.index):
            now = labels[mask]
            if reduction in _sums(now):
                self._views(mask, now, explosions.opened(now, reduction, private))
                for label in [x for x in now if explosions.pure(x, {reduction})]:
                    self.script.append(('sum', mask, now.index(label)))
                    now.remove(label)

    def _views(self, mask: int, labels: list[Coordinate], target: Iterable[Coordinate] | None) -> None:
        """Views down to ``target`` (to iterators for None), deepest first."""
        wanted = None if target is None else set(target)
        while True:
            todo = [n for n, x in enumerate(labels)
                    if (not isinstance(x, Iterator) if wanted is None else x not in wanted)]
            if not todo:
                return
            at = max(todo, key=lambda n: labels[n].depth)
            node = labels[at]
            if isinstance(node, MergeRight) and sibling(node) not in labels and low_digits(node) is not None:
                labels[at] = low_digits(node)
                continue
            self.script.append(('view', mask, list(labels), at))
            undo(torch.empty([x.size.value(self.sizes) for x in labels], device='meta'), labels, at, self.sizes)

    def forward(self, x: Tensor) -> Tensor:
        """As the operator, for the batch size of the binding alone."""
        held = {1 << n: t for n, t in enumerate((x, *self.weights))}
        for kind, mask, *rest in self.script:
            if kind == 'view':
                labels, at = list(rest[0]), rest[1]
                node = labels[at]
                held[mask] = (_unfold(held[mask], at, node.right.size.value(self.sizes)) if isinstance(node, Unfold)
                              else undo(held[mask], labels, at, self.sizes))
            elif kind == 'einsum':
                held[mask | rest[0]] = torch.einsum(rest[1], held.pop(mask), held.pop(rest[0]))
            elif kind == 'sum':
                held[mask] = held[mask].sum(rest[0])
            else:
                held[mask] = held[mask].permute(rest[0])
        return held[self.result].reshape(self.op.output_shape(self.sizes))


def _unfold(x: Tensor, dim: int, window: int) -> Tensor:
    before, after = x.shape[:dim], x.shape[dim + 1:]
    image = x.reshape(1, before.numel(), x.shape[dim], after.numel())
    columns = F.unfold(image, (window, 1), padding=(window // 2, 0))
    columns = columns.reshape(*before, window, -1, *after).narrow(dim + 1, 0, x.shape[dim])  # even windows: one more
    return columns.movedim(dim, dim + 1)


def _sums(labels: Iterable[Coordinate]) -> set[Sum]:
    return {leaf for label in labels for leaf in label.iterators() if isinstance(leaf, Sum)}
