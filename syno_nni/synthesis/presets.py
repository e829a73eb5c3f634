"""Ready-made spaces: signature, variables and limits per layer family.

``conv2d`` is the union of the published vision searches ("Syno", ASPLOS 2025, artifact): 3 tensors, at most 12 steps, 5
reductions, 2 Merges, 3 Splits, 2 Shifts.

A preset is added as a row of `PRESETS`; it must pass `syno_nni.testing.spaces.OperatorSpaceSuite`.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .limits import Variable

_COEFFICIENTS = (Variable('k_1', 2, False, 3), Variable('k_2', 2, False, 7), Variable('s', 2, False, 2),
                 Variable('g', 3, False, 32))
_RESNET18 = tuple({'N': 1, 'C_in': i, 'C_out': o, 'H': h} for i, o, h in (
    (64, 64, 56), (64, 128, 28), (128, 128, 28), (128, 256, 14), (256, 256, 14), (256, 512, 7), (512, 512, 7)))


@dataclass(frozen=True)
class Preset:
    """What a family of layers needs. ``tied``: output position -> input position of dimensions that pass through.

    ``layer``: the formula of the layer replaced, for budgets relative to it. ``bindings``: used for sampling when the
    caller gives none.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    variables: tuple[Variable, ...]
    layer: str
    bindings: tuple[Mapping[str, int], ...]
    tied: Mapping[int, int] = field(default_factory=lambda: {0: 0})
    unordered_inputs: frozenset[int] = frozenset({1})
    unordered_outputs: frozenset[int] = frozenset({1})
    limits: Mapping[str, Any] = field(default_factory=dict)


PRESETS: dict[str, Preset] = {
    'conv2d': Preset(
        ('N', 'C_in', 'H', 'H'), ('N', 'C_out', 'H', 'H'),
        (Variable('N', 0), Variable('C_in', 2), Variable('C_out', 4), Variable('H', 0), *_COEFFICIENTS),
        'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_1, j:k_1] in[n, c, unfold(h, i), unfold(w, j)] * w1[o, c, i, j]',
        _RESNET18),
    'conv2d_rectangular': Preset(
        ('N', 'C_in', 'H', 'W'), ('N', 'C_out', 'H', 'W'),
        (Variable('N', 0), Variable('C_in', 2), Variable('C_out', 4), Variable('H', 0), Variable('W', 0), *_COEFFICIENTS),
        'out[n:N, o:C_out, h:H, w:W] = sum[c:C_in, i:k_1, j:k_1] in[n, c, unfold(h, i), unfold(w, j)] * w1[o, c, i, j]',
        tuple({**b, 'W': 2 * b['H']} for b in _RESNET18)),
    'depthwise': Preset(
        ('N', 'C', 'H', 'H'), ('N', 'C', 'H', 'H'),
        (Variable('N', 0), Variable('C', 3), Variable('H', 0), Variable('k_1', 2, False, 3), Variable('k_2', 2, False, 7),
         Variable('s', 2, False, 2), Variable('g', 2, False, 8)),
        'out[n:N, x:C, h:H, w:H] = sum[i:k_1, j:k_1] in[n, x, unfold(h, i), unfold(w, j)] * w1[x, i, j]',
        tuple({'N': 1, 'C': c, 'H': h} for c, h in ((64, 56), (128, 28), (256, 14))),
        limits={'reductions': 3, 'steps': 8, 'min_weight': 9}),
    'pointwise': Preset(
        ('N', 'C_in', 'H', 'H'), ('N', 'C_out', 'H', 'H'),
        (Variable('N', 0), Variable('C_in', 2), Variable('C_out', 4), Variable('H', 0), Variable('k_1', 1, False, 3),
         Variable('s', 2, False, 2), Variable('g', 3, False, 32)),
        'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in] in[n, c, h, w] * w1[o, c]',
        tuple({'N': 1, 'C_in': i, 'C_out': o, 'H': h} for i, o, h in ((64, 256, 56), (256, 128, 28), (512, 256, 14))),
        limits={'steps': 9}),
    'linear': Preset(
        ('N', 'T', 'C_in'), ('N', 'T', 'C_out'),
        (Variable('N', 0), Variable('T', 0), Variable('C_in', 3), Variable('C_out', 4), Variable('k_1', 2, False, 3),
         Variable('s', 2, False, 2), Variable('g', 3, False, 32)),
        'out[n:N, t:T, o:C_out] = sum[c:C_in] in[n, t, c] * w1[o, c]',
        tuple({'N': 1, 'T': 196, 'C_in': i, 'C_out': o} for i, o in ((192, 576), (192, 768), (768, 192))),
        unordered_inputs=frozenset({2}), unordered_outputs=frozenset({2}), tied={0: 0, 1: 1}, limits={'steps': 8}),
    'conv1d': Preset(
        ('N', 'C_in', 'L'), ('N', 'C_out', 'L'),
        (Variable('N', 0), Variable('C_in', 2), Variable('C_out', 4), Variable('L', 0), *_COEFFICIENTS),
        'out[n:N, o:C_out, l:L] = sum[c:C_in, i:k_1] in[n, c, unfold(l, i)] * w1[o, c, i]',
        tuple({'N': 1, 'C_in': i, 'C_out': o, 'L': n} for i, o, n in ((64, 64, 256), (64, 128, 128), (128, 256, 64))),
        limits={'steps': 10}),
}
