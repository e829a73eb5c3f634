"""Kernels are checked before they are timed."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from syno_nni.errors import MeasureError
from syno_nni.operator import Operator
from syno_nni.plan.layer import SynthesizedLayer
from syno_nni.plan.verification import check_layers, small_sizes

from ...testing import toy

SIZES = {'N': 1, 'C_in': 64, 'C_out': 128, 'H': 56, 'k_1': 3, 'k_2': 7, 's': 2, 'g': 8}


@pytest.mark.parametrize('op', toy.OPERATORS.values(), ids=str)
def test_right_layers_pass(op: Operator) -> None:
    sizes = small_sizes(op, SIZES)
    assert all(SIZES[v] % n == 0 for v, n in sizes.items())
    assert (sizes['k_1'], sizes['k_2']) == (3, 7)
    assert sizes['C_in'] >= 8
    assert check_layers(nn.Sequential(SynthesizedLayer(op, SIZES))) == []


def test_wrong_layers_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    right = SynthesizedLayer.forward
    monkeypatch.setattr(SynthesizedLayer, 'forward', lambda self, x: torch.roll(right(self, x), 1, -1))
    layer = SynthesizedLayer(next(iter(toy.OPERATORS.values())), SIZES)
    with pytest.raises(MeasureError, match=r'computes something else than its definition at .* please report out\['):
        check_layers(nn.Sequential(layer))


def test_what_is_too_large_is_named() -> None:
    op = Operator.parse('out[n:N, o:C_out] = sum[c:C_in] in[n, c] * w1[o, c]')
    sizes = {'N': 1, 'C_in': 4099, 'C_out': 4099}  # primes: they shrink to 1, where the operator is degenerate
    assert small_sizes(op, sizes) in (None, {'N': 1, 'C_in': 1, 'C_out': 1})
    assert small_sizes(op, {'N': 1, 'C_in': 7, 'C_out': 6}) == {'N': 1, 'C_in': 7, 'C_out': 6}
