from __future__ import annotations

import pytest
import torch

import syno_nni as sn
from syno_nni.plan.initialize import correlated_terms, gain_of, initialize, variances

from ...testing.published import NAMES, operator

SIZES = {'N': 4, 'C_in': 64, 'C_out': 64, 'H': 28, 'g': 32, 'k_1': 3, 'k_2': 7, 's': 2}


def measured_gain(op: sn.Operator, sizes: dict[str, int], gain: float = 1.0) -> float:
    """var(output) for inputs of variance 1, over several draws of the weights."""
    torch.manual_seed(0)
    found = []
    for _ in range(6):
        layer = sn.SynthesizedLayer(op, sizes)
        initialize(op, sizes, list(layer.weights), gain)
        with torch.no_grad():
            found.append(layer(torch.randn(op.input_shape(sizes))).square().mean())
    return float(torch.stack(found).mean())


@pytest.mark.parametrize('name', NAMES)
def test_published_operators_keep_variance(name: str) -> None:
    assert measured_gain(operator(name), SIZES) == pytest.approx(1, rel=0.25)


def test_the_gain_of_the_replaced_layer() -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(64, 64, 3, padding=1, bias=False)
    torch.nn.init.kaiming_normal_(conv.weight, mode='fan_out', nonlinearity='relu')
    assert gain_of(conv.weight) == pytest.approx(2, rel=0.05)
    op = sn.Operator.parse('out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_1] in[n, c, unfold(h,i), w] * w1[o, c, i]')
    assert measured_gain(op, SIZES, gain_of(conv.weight)) == pytest.approx(2, rel=0.15)


def test_one_weight_gets_the_inverse_of_its_fan() -> None:
    op = sn.Operator.parse('out[n:N, o:C_out, h:H, w:H] = sum[c:C_in] in[n, c, h, w] * w1[o, c]')
    assert variances(op, SIZES) == [pytest.approx(1 / 64)]


def test_intermediate_results_keep_variance() -> None:
    op = sn.Operator.parse('out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, d:g] in[n, c, h, w] * w1[c, d] * w2[d, o]')
    assert variances(op, {**SIZES, 'g': 4}) == [pytest.approx(1 / 64), pytest.approx(1 / 4)]


@pytest.mark.parametrize(('formula', 'terms'), [
    ('out[n:N, c:C_in, h:H, w:H] = sum[r:g] in[n, c, h, w] * w1[c]', 32 ** 2),
    ('out[n:N, c:C_in, h:H, w:H] = sum[r:g] in[n, c, h, w] * w1[c, r]', 32),
    ('out[n:N, c:C_in/s, h:H, w:H] = sum[r:C_in*s] in[n, r//s, h, w] * w1[c, r//s]', 64 * 4),
    ('out[n:N, c:C_in, h:H, w:H] = in[n, c, h, w] * w1[c]', 1),
])
def test_terms_that_read_the_same_elements_add_up(formula: str, terms: int) -> None:
    op = sn.Operator.parse(formula)
    assert correlated_terms(op, SIZES) == terms
    assert measured_gain(op, SIZES) == pytest.approx(1, rel=0.4)


def test_padding_is_left_out() -> None:
    """A window as wide as the map reads padding for a quarter of its terms."""
    op = sn.Operator.parse('out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:H] in[n, c, unfold(h, i), w] * w1[o, c, i]')
    assert correlated_terms(op, SIZES) == pytest.approx(64 * 28 * 0.75, rel=0.1)
    assert measured_gain(op, SIZES) == pytest.approx(1, rel=0.15)
