from __future__ import annotations

import pytest

from syno_nni.errors import FormulaError, GraphError, SynoError
from syno_nni.operator import Operator, classics
from syno_nni.operator.expr import MergeLeft, MergeRight, Out, Shift, Split, Stride, Sum, Unfold
from syno_nni.operator.size import Size

CONV = 'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_1, j:k_1] in[n, c, unfold(h, i), unfold(w, j)] * w1[o, c, i, j]'


@pytest.mark.parametrize('text', [
    CONV, CONV.replace(' ', ''), CONV.replace(' ', '  \n\t'),
    'out[a:N, b:C_out, hh:H, ww:H] = sum[x:k_1, y:k_1, z:C_in] in[a, z, unfold(hh, y), unfold(ww, x)] * w1[z, b, y, x]',
    'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_1, j:k_1] in[n, c, unfold((h), i), (unfold(w, j))] * w1[o, c, i, j]',
    'out[n:N, o:C_out, h:H, w:H] = sum[c:s*C_in/s, i:k_1^2/k_1, j:(k_1)] in[n, c, unfold(h, i), unfold(w, j)] '
    '* w1[o, c, i, j]',
])
def test_many_ways_to_write_one_operator(text: str) -> None:
    op = Operator.parse(text)
    assert str(op) == CONV and op == classics.conv2d() and op.id == classics.conv2d().id


def test_every_primitive_has_its_notation() -> None:
    h, w = Out(0, Size.parse('H')), Out(1, Size.parse('W'))
    i = Sum(0, Size.parse('k'))
    s, b = Size.parse('s'), Size.parse('W/s')
    op = Operator.parse('out[h:H, w:W] = sum[i:k] in[shift(unfold(h, i), -2), w//(W/s), stride(w%(W/s), s)] '
                        '* w1[h*k + i]')
    assert op.inputs == (Shift(Unfold(h, i), -2), MergeLeft(w, b), Stride(MergeRight(w, b), s))
    assert op.weights == ((Split(h, i),),)
    assert Operator.parse('out[h:H, w:W] = sum[i:k] in[(h*W + w)*k + i]').inputs == (Split(Split(h, w), i),)
    assert Operator.parse('out[h:H, w:W] = sum[i:k] in[h*(W*k) + (w*k + i)]').inputs == (Split(h, Split(w, i)),)
    assert Operator.parse('out[h:H, w:W] = in[h*s + w//(W/s)]').inputs == (Split(h, MergeLeft(w, b)),)


@pytest.mark.parametrize('text', [
    'out[] = sum[r:H] in[r] * w1[]', 'out[h:H] = in[h]', 'out[h:H, w:H, x:H] = in[x, w, h]', 'out[x:2] = in[x//2, x%2]',
    'out[x:k^2*s] = in[x]', 'out[h:H] = sum[r:g, a:g, b:g] in[h] * w1[r, a, b]',
])
def test_small_formulas_print_as_read(text: str) -> None:
    assert str(Operator.parse(text)) == text


def test_index_names_never_look_like_sizes() -> None:
    op = Operator([Size.parse('h'), Size.parse('o')], [Size.parse('r')],
                  [Out(0, Size.parse('h')), Sum(0, Size.parse('r'))], [[Out(1, Size.parse('o'))]])
    index_names = {piece.split(':')[0] for piece in str(op).replace('[', ' ').replace(']', ' ').split() if ':' in piece}
    assert not index_names & {'h', 'o', 'r'} and Operator.parse(str(op)) == op


def test_more_indices_than_letters() -> None:
    op = Operator(['H'] * 10, ['g'] * 12, [Out(i, Size.parse('H')) for i in range(10)],
                  [[Sum(i, Size.parse('g')) for i in range(12)]])
    assert Operator.parse(str(op)) == op


def test_pretty_and_loop_nest() -> None:
    op = Operator.parse('out[n:N, h:H/s] = sum[c:C_in/g, i:k_1] in[n, c%g, shift(unfold(stride(h, s), i), -1)] '
                        '* w1[c//g, i]')
    assert op.pretty() == '\n'.join([
        'out[n:N, h:H/s] =',
        '    sum[c:C_in/g, i:k_1]',
        '      in[n, c%g, shift(unfold(stride(h, s), i), -1)]',
        '    * w1[i, c//g]'])
    assert Operator.parse(op.pretty()) == op
    assert op.loop_nest() == '\n'.join([
        'for n in range(N):',
        '    for h in range(H//s):',
        '        for c in range(C_in//g):',
        '            for i in range(k_1):',
        '                if 0 <= (h * s) + i - k_1 // 2 < H:',
        '                    out[n, h] += in_[n, c % g, (((h * s) + i - k_1 // 2) - 1) % H] * w1[i, c // g]'])


@pytest.mark.parametrize(('text', 'message'), [
    ('', "wanted 'out', but the text ends"),
    ('in[n]', "wanted 'out', got 'in' at column 1"),
    ('out[n:N] = in[m]', "wanted one of the indices n, got 'm' at column 15"),
    ('out[n:N] = in[n', r"wanted ','"),
    ('out[n:N] in[n]', "wanted '=', got 'in'"),
    ('out[n] = in[n]', "wanted ':', got ']'"),
    ('out[n:] = in[n]', 'wanted a size such as C_in/g'),
    ('out[n:0] = in[n]', 'wanted a positive number'),
    ('out[n:N, n:H] = in[n]', 'wanted an index name that is not in use or reserved'),
    ('out[in:N] = in[in]', 'wanted an index name that is not in use or reserved'),
    ('out[n:N] = sum[n:H] in[n]', 'wanted an index name that is not in use'),
    ('out[n:N] = in[n] * w2[n]', "wanted weight 'w1'"),
    ('out[n:N] = in[n] + w1[n]', r'wanted "\*" and a weight, or the end'),
    ('out[n:N] = in[n] w1[n]', r'wanted "\*" and a weight, or the end'),
    ('out[n:N] = in[n, n]', 'data-linear'),
    ('out[n:N] = in[n] * w1[n, n]', 'weight-linear'),
    ('out[n:N] = in[]', 'the input has no coordinate'),
    ('out[n:N, h:H] = in[n*N + h]', r'in a\*S \+ b, S must be the size of b, which is H; got N'),
    ('out[n:N, h:H] = in[n*H]', r"wanted '\+', got ']'"),
    ('out[n:N, h:H] = in[n + h]', "wanted ','"),
    ('out[n:N] = in[unfold(n)]', "wanted ','"),
    ('out[n:N] = in[unfold(n, n)]', 'data-linear'),
    ('out[n:N] = in[shift(n)]', "wanted ','"),
    ('out[n:N] = in[shift(n, N)]', 'wanted an integer'),
    ('out[n:N] = in[shift(n, 1.5)]', "unexpected '.'"),
    ('out[n:N] = in[stride(n, 0)]', 'positive number'),
    ('out[n:N] = in[roll(n, 1)]', "wanted one of the indices n, got 'roll'"),
    ('out[n:N] = in[n//]', 'wanted a size'),
    ('out[n:N] = in[3]', 'wanted an index'),
    ('out[n:N] = in[n] ü', "unexpected 'ü' at column 18"),
    ('out[n:N] = in[shift(n, 99999999999)]', 'offset must be an integer within'),
])
def test_errors_say_where_and_what_was_wanted(text: str, message: str) -> None:
    with pytest.raises(SynoError, match=message) as caught:
        Operator.parse(text)
    assert isinstance(caught.value, (FormulaError, GraphError))
