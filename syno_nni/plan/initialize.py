"""Initial weights that keep variance, for any number of weights.

An output is ``y = sum over t of x[e(t)] * w1[f1(t)] * ... * wk[fk(t)]``, where ``t`` runs over the reductions and terms
whose reads fall into zero padding vanish. Let the weights be independent with mean 0 and variances v1 ... vk, and the
inputs be uncorrelated with second moment E[x^2]. Of the products of two terms only those survive the expectation that
read the same element of every weight and of the input, so

    var(y) = v1 * ... * vk * S * E[x^2],    S = mean over outputs of sum over groups g of |g|^2,

where a group is the set of terms that read the same elements. Almost always every group is one term and S is the number
of terms R = prod(reductions), less the share that falls into padding: an ordinary convolution has S = C_in * k^2 (less
the border), so v1 = 1/fan_in. Groups of more than one term come from reductions that nothing indexes in full (an unused
reduction of size r makes every group r terms, S = R * r). S is counted, not estimated: all terms of a sample of outputs
are enumerated.

The product v1 * ... * vk is thus fixed; it is shared out so that the intermediate results keep their variance too: in
the cheapest contraction order, the weight that enters at a stage gets the inverse of what the stage sums, and what is
left to reach the product is shared equally. "The variance of the layer replaced" is a gain: for a convolution with
weights W it is the mean over outputs of ``sum(W^2)`` (`gain_of`), 1 by default; 2 is He's for networks of ReLUs.

Sources: He et al., "Delving Deep into Rectifiers", 2015, for one weight; the rest is the derivation above.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from syno_nni.operator.expr import Iterator
from syno_nni.operator.orders import orders
from syno_nni.operator.reference import evaluate
from syno_nni.operator.size import Binding

from .sketch import is_sketch

if TYPE_CHECKING:
    from syno_nni.operator import Operator

_TERMS = 1 << 18  # enumerated at most, over all sampled outputs
_OUTPUTS = 24


def initialize(op: Operator, sizes: Binding, weights: Sequence[Tensor], gain: float = 1.0) -> None:
    """Draws normal weights, in place, so that ``var(output) = gain * E[input^2]``.

    ``weights`` have ``op.weight_shapes(sizes)``. An operator without weights keeps whatever variance it has.
    """
    if is_sketch():
        return
    with torch.no_grad():
        for weight, variance in zip(weights, variances(op, sizes, gain)):
            weight.normal_(std=math.sqrt(variance))


def variances(op: Operator, sizes: Binding, gain: float = 1.0) -> list[float]:
    """The variance of every weight (see the module)."""
    if not op.weights:
        return []
    fans = _fans(op, sizes)
    correction = (gain * math.prod(fans) / correlated_terms(op, sizes)) ** (1 / len(fans))
    return [correction / fan for fan in fans]


def gain_of(weight: Tensor) -> float:
    """``var(output) / E[input^2]`` of a linear or convolution layer with this weight, output dimension first."""
    return float(weight.detach().double().square().flatten(1).sum(1).mean())


def correlated_terms(op: Operator, sizes: Binding) -> float:
    """S: the mean over outputs of the squared sizes of groups of terms that read the same elements.

    Above 2^18 terms per output every term counts as a group of its own, none of them in padding.
    """
    sizes = op.check_sizes(sizes)
    terms = math.prod(s.value(sizes) for s in op.reductions)
    if terms > _TERMS:
        return float(terms)
    rng = np.random.default_rng(0)  # a fixed sample: the same operator starts with the same scale everywhere
    shape = op.output_shape(sizes)
    count = max(1, min(_OUTPUTS, _TERMS // terms, math.prod(shape)))
    summed = np.unravel_index(np.arange(terms), [s.size.value(sizes) for s in op.sums()]) if op.reductions else ()
    total = 0.0
    for _ in range(count):
        env: dict[Iterator, np.ndarray] = {o: np.array([rng.integers(n)]) for o, n in zip(op.outs(), shape)}
        env.update(zip(op.sums(), summed))
        total += _squared_groups(op, env, sizes, terms)
    return max(total / count, 1e-12)


def _squared_groups(op: Operator, env: dict[Iterator, np.ndarray], sizes: Binding, terms: int) -> float:
    address = np.zeros(terms, dtype=np.int64)
    inside = np.ones(terms, dtype=bool)
    bound = 1
    for coordinate in (c for tensor in (op.inputs, *op.weights) for c in tensor):
        index, ok = evaluate(coordinate, env, sizes)
        inside = inside & ok
        extent = coordinate.size.value(sizes)
        if np.all(index == np.ravel(index)[0]):
            continue
        if bound > 2 ** 62 // extent:  # number the addresses anew before they overflow
            address = np.unique(address, return_inverse=True)[1].reshape(-1)
            bound = terms
        address, bound = address * extent + np.where(ok, index, 0), bound * extent
    groups = np.unique(address[inside], return_counts=True)[1]
    return float(np.square(groups, dtype=np.float64).sum())


def _fans(op: Operator, sizes: Binding) -> list[float]:
    """For every weight, the number of terms summed where it enters the cheapest order."""
    fans = [1.0] * len(op.weights)
    cheapest = min(orders(op), key=lambda order: order.macs(sizes))
    for stage in cheapest.stages:
        summed = math.prod(node.size.value(sizes) for node in stage.summed)
        entering = max(stage.operands).bit_length() - 1  # a weight, unless the stage sums the input alone
        if entering > 0:
            fans[entering - 1] *= summed
    return fans
