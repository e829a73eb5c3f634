"""Random legal operators, wilder than any search makes them, with small sizes."""
from __future__ import annotations

import random

import syno_nni as sn
from syno_nni.errors import SynoError
from syno_nni.operator.expr import Coordinate, MergeLeft, MergeRight, Out, Shift, Split, Stride, Sum, Unfold
from syno_nni.operator.size import Size

SIZES = {'N': 2}


def random_operator(seed: int) -> sn.Operator:
    """An operator on ``N`` and small numbers: nested windows, shifts, merges, strides, up to three weights."""
    rng = random.Random(seed)
    while True:
        try:
            return _attempt(rng)
        except SynoError:
            continue


def _attempt(rng: random.Random) -> sn.Operator:
    outputs = [Size.of('N'), *(Size.of(rng.choice([2, 3, 4, 6])) for _ in range(rng.randint(1, 3)))]
    sums = [Size.of(rng.choice([1, 2, 3, 3, 4])) for _ in range(rng.randint(0, 4))]
    iterators: list[Coordinate] = [*(Out(i, s) for i, s in enumerate(outputs))][1:] + [
        Sum(i, s) for i, s in enumerate(sums)]
    interface: list[Coordinate] = list(iterators)
    weights: list[list[Coordinate]] = [[] for _ in range(rng.randint(0, 3))]
    for _ in range(rng.randint(0, 8)):
        _step(rng, interface, weights)
    rng.shuffle(interface)
    dropped = [c for c in interface if rng.random() < 0.2 and any(c in w for w in weights)]
    inputs = [Out(0, outputs[0]), *(c for c in interface if c not in dropped)]
    if any(c.size.coefficient.denominator != 1 for c in interface) or len(inputs) > 6:
        return _attempt(rng)
    op = sn.Operator(outputs, sums, inputs, [w for w in weights if w])
    volume = 1
    for it in op.iterators():
        volume *= it.size.value(SIZES)
    return op if volume < 20000 else _attempt(rng)


def _step(rng: random.Random, interface: list[Coordinate], weights: list[list[Coordinate]]) -> None:
    kind = rng.choice(['share', 'share', 'share', 'share', 'split', 'unfold', 'unfold', 'shift', 'merge', 'stride'])
    if not interface:
        return
    at = rng.randrange(len(interface))
    node = interface[at]
    n = int(node.size.coefficient)
    if kind == 'share' and weights:
        weight = rng.choice(weights)
        if node not in weight:
            weight.append(node)
    elif kind == 'shift':
        interface[at] = Shift(node, rng.choice([1, 1, 2, -1]))
    elif kind == 'stride' and n < 8:
        interface[at] = Stride(node, Size.of(2))
    elif kind == 'merge':
        block = next((b for b in (2, 3) if n % b == 0 and n > b), None)
        if block:
            halves = [MergeLeft(node, Size.of(block)), MergeRight(node, Size.of(block))]
            interface[at:at + 1] = halves if rng.random() < 0.8 else [rng.choice(halves)]
    elif kind in ('split', 'unfold') and len(interface) > 1:
        other = rng.choice([k for k in range(len(interface)) if k != at])
        right = interface[other]
        interface[at] = (Split if kind == 'split' else Unfold)(node, right)
        del interface[other]
