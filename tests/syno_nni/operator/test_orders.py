from __future__ import annotations

from fractions import Fraction

import pytest

import syno_nni as sn
from syno_nni.errors import SizeError
from syno_nni.operator.cost import minimum_bytes, polynomial, receptive_field
from syno_nni.operator.orders import orders

SIZES = {'N': 2, 'C_in': 16, 'C_out': 8, 'H': 14, 'k_1': 3, 'k_2': 7, 's': 2, 'g': 4}
CONV = ('out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_1, j:k_1] '
        'in[n, c, unfold(h,i), unfold(w,j)] * w1[o, c, i, j]')


def test_a_convolution_costs_its_textbook_count() -> None:
    op = sn.Operator.parse(CONV)
    assert op.macs(SIZES) == 2 * 16 * 8 * 14 * 14 * 9
    assert polynomial(op, SIZES) == 'C_in*C_out*H^2*N*k_1^2'


def test_windows_stay_closed_until_they_are_needed() -> None:
    """Pointwise then depthwise: the pointwise stage must not pay for the window of the depthwise one."""
    op = sn.Operator.parse('out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_1] '
                           'in[n, c, unfold(h,i), w] * w1[o, c] * w2[o, i]')
    assert op.macs(SIZES) == 2 * 14 * 14 * (16 * 8 + 8 * 3)


def test_a_box_sum_costs_its_window() -> None:
    op = sn.Operator.parse('out[n:N, c:C_in, h:H, w:H] = sum[i:k_1] in[n, c, unfold(h,i), w]')
    assert op.macs(SIZES) == 2 * 16 * 14 * 14 * 3


def test_an_early_sum_beats_a_late_one() -> None:
    op = sn.Operator.parse('out[n:N, o:C_out, h:H, w:H] = sum[r:s, c:C_in/s] in[n, r*(C_in/s) + c, h, w] * w1[o, c]')
    assert op.macs(SIZES) == 2 * 14 * 14 * (16 + 8 * 8)


def test_strided_dimensions_shrink_first() -> None:
    op = sn.Operator.parse('out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_1] '
                           'in[n, c, unfold(stride(h, s), i), stride(w, s)] * w1[o, c, i]')
    assert op.macs(SIZES) == 2 * 14 * 14 * 16 * 8 * 3


def test_a_view_costs_nothing() -> None:
    assert sn.Operator.parse('out[n:N, o:C_in, h:H] = in[n, o, shift(h, 1)]').macs(SIZES) == 0


def test_a_half_of_a_merge_meets_its_other_half_in_another_tensor() -> None:
    op = sn.Operator.parse('out[n:N, o:C_out, h:H, w:H] = sum[r:s] '
                           'in[n, o, w, shift(h*s + r, 1)//s] * w1[o, shift(h*s + r, 1)%s]')
    assert op.macs(SIZES) == 2 * 8 * 14 * 14 * 2


def test_the_cheapest_order_depends_on_the_binding() -> None:
    op = sn.Operator.parse('out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, d:g] in[n, c, h, w] * w1[c, d] * w2[d, o]')
    narrow, wide = dict(SIZES, g=2), dict(SIZES, g=64)
    assert op.macs(narrow) == 2 * 14 * 14 * 2 * (16 + 8)
    assert op.macs(wide) == 16 * 8 * 64 + 2 * 14 * 14 * 16 * 8
    assert len(orders(op)) > 1


def test_many_weights_end_in_time() -> None:
    ranks = ', '.join(f'd{n}:g' for n in range(7))
    chain = ' * '.join(f'w{n + 2}[d{n}, d{n + 1}]' for n in range(6))
    op = sn.Operator.parse(f'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, {ranks}] '
                           f'in[n, c, h, w] * w1[c, d0] * {chain} * w8[d6, o]')
    assert 0 < op.macs(SIZES) <= 2 * 14 * 14 * (16 * 4 + 6 * 16 + 4 * 8)


def test_a_missing_size_is_named() -> None:
    with pytest.raises(SizeError, match='k_1'):
        sn.Operator.parse(CONV).macs({k: v for k, v in SIZES.items() if k != 'k_1'})


def test_the_receptive_field_of_a_convolution() -> None:
    assert receptive_field(sn.Operator.parse(CONV), SIZES) == ((1, 16, 3, 3), Fraction(9 * 16, 2 * 16 * 196))


def test_every_tensor_moves_once() -> None:
    assert minimum_bytes(sn.Operator.parse(CONV), SIZES) == 4 * (2 * 16 * 196 + 16 * 8 * 9 + 2 * 8 * 196)
