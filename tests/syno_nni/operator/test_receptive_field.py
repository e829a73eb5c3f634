from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from syno_nni.errors import SizeError
from syno_nni.operator import Operator, classics
from syno_nni.operator.receptive_field import receptive_field, small_sizes
from syno_nni.operator.touches import touches

from ...testing.operators import operators

SIZES = {'N': 1, 'C_in': 4, 'C_out': 4, 'H': 16, 'k_1': 3, 'g': 2, 's': 2, 'T': 5, 'L': 9}


def seen(op: Operator, **sizes: int):
    bound = {v: n for v, n in {**SIZES, **sizes}.items() if v in op.variables}
    return receptive_field(op, bound)


@pytest.mark.parametrize(('name', 'extent', 'positions', 'share'), [
    ('conv2d', (3, 3), 9, 1.0), ('grouped_conv2d', (3, 3), 9, 0.5), ('depthwise', (3, 3), 9, 0.25),
    ('pointwise', (1, 1), 1, 1.0), ('dilated_conv2d', (5, 5), 9, 1.0), ('conv1d', (1, 3), 3, 1.0), ('linear', (1, 1), 1, 1.0),
])
def test_known_layers(name: str, extent: tuple[int, int], positions: int, share: float) -> None:
    field = seen(classics.CLASSICS[name]())
    assert field.extent == extent and int((field.grid > 0).sum()) == positions
    assert field.grid.max() == share
    assert field.read == round(field.grid.sum() * field.behind)
    part, (top, left), center = field.cropped()
    assert part.shape[-1] <= 17 and center is not None
    assert np.array_equal(part, field.grid[top:top + part.shape[0], left:left + part.shape[1]])
    assert field.center == (top + center[0], left + center[1])


def test_rolled_rows_leave_the_centre() -> None:
    field = seen(Operator.parse('out[n:N, c:C_in, h:H, w:H] = in[n, c, shift(h, 1), w]'))
    rows, columns = np.nonzero(field.grid)
    assert (rows.tolist(), columns.tolist()) == ([9], [8]) and field.center == (8, 8)
    assert '◇' in field.to_text() and '◆' not in field.to_text()


def test_scattered_reads_show_the_whole_map() -> None:
    field = seen(Operator.parse('out[n:N, c:C_in, h:H] = sum[i:k_1] in[n, c, (unfold(h//4, i))*4 + h%4]'), H=64)
    assert field.words() == 'one output reads 3 (scattered over 9) of 64 positions, 1 of 4 channels at each'


def test_what_takes_too_long_is_left_out_and_sizes_are_checked() -> None:
    assert seen(classics.conv2d(), C_in=1 << 20, H=64) is None
    with pytest.raises(SizeError):
        seen(classics.grouped_conv2d(), C_in=3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(operators())
def test_every_operator_has_a_field_and_a_table(drawn: tuple[Operator, dict[str, int]]) -> None:
    op, sizes = drawn
    field = receptive_field(op, sizes)
    assert field is not None and field.grid.ndim == 2 and field.words().startswith('one output reads')
    assert len(field.to_text().splitlines()) == field.cropped()[0].shape[0]
    table = touches(op)
    for row, it in zip(table.rows, op.iterators()):
        used = [any(it in c.iterators() for c in t) for t in (op.inputs, *op.weights)]
        assert [bool(mark) for mark in row[-1]] == [*used, it.kind == 'out']


def test_small_sizes_fit() -> None:
    for make in classics.CLASSICS.values():
        op = make()
        sizes = small_sizes(op)
        assert sizes is not None and op.check_sizes(sizes) == sizes
    assert small_sizes(classics.conv2d(), largest=10) is None
