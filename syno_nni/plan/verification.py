"""Checking kernels before they are timed: a wrong one may well be the fastest."""
from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from syno_nni.errors import MeasureError, SizeError
from syno_nni.operator import Operator

from .layer import SynthesizedLayer

TOLERANCE = 1e-4
"""Largest relative error of a float32 layer against the float64 definition."""
_MOST_PRODUCTS = 1 << 21
# The definition forms every product; so many take a tenth of a second.
_COEFFICIENT_LIMIT = 8
# Smaller values are coefficients such as window sizes, which keep their values.


def check_layers(model: nn.Module) -> list[str]:
    """Compare every operator in ``model`` with its definition, at its slots' sizes or as near to them as is cheap.

    Returns:
        ids of operators that are too large to check at any sizes that fit them.

    Raises:
        MeasureError: a layer computes something else than its operator.
    """
    unchecked: set[str] = set()
    seen: set[tuple[str, tuple[tuple[str, int], ...]]] = set()
    for module in model.modules():
        if not isinstance(module, SynthesizedLayer):
            continue
        sizes = small_sizes(module.op, module.sizes)
        if sizes is None:
            unchecked.add(module.op.id)
        elif (key := (module.op.id, tuple(sorted(sizes.items())))) not in seen:
            seen.add(key)
            check_operator(module.op, sizes)
    return sorted(unchecked)


def check_operator(op: Operator, sizes: Mapping[str, int]) -> None:
    """Compare a layer with random weights and input with the definition.

    Raises:
        MeasureError: they differ by more than :data:`TOLERANCE`.
    """
    layer = SynthesizedLayer(op, dict(sizes))
    rng = np.random.default_rng(0)
    x = rng.standard_normal(op.input_shape(sizes))
    with torch.no_grad():
        for weight in layer.weights:
            weight.copy_(torch.from_numpy(rng.standard_normal(weight.shape)))
        got = layer(torch.from_numpy(x).float()).double().numpy()
    want = op.reference(x, [w.detach().double().numpy() for w in layer.weights], sizes)
    error = float(np.linalg.norm(got - want)) / max(float(np.linalg.norm(want)), 1e-30)
    if not error <= TOLERANCE:
        raise MeasureError(f'the layer of operator {op.id} computes something else than its definition at '
                           f'{dict(sizes)}: relative error {error:.1e}, wanted at most {TOLERANCE:.0e}; please report '
                           f'{op}')


def small_sizes(op: Operator, sizes: Mapping[str, int]) -> dict[str, int] | None:
    """The largest binding up to ``sizes`` at which the definition is cheap, or None. Sizes shrink to divisors."""
    best = None
    for cap in (4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512, 1024):
        small = {v: n if n < _COEFFICIENT_LIMIT or v in ('k_1', 'k_2', 's', 'g') else _divisor(n, cap)
                 for v, n in sizes.items()}
        try:
            products = math.prod(op.output_shape(small)) * math.prod(r.value(small) for r in op.reductions)
            op.check_sizes(small)
        except SizeError:
            continue
        if products <= _MOST_PRODUCTS:
            best = small
    return best


def _divisor(number: int, cap: int) -> int:
    """The largest divisor up to ``cap``."""
    return next(d for d in range(min(cap, number), 0, -1) if number % d == 0)
