from __future__ import annotations

import pytest

from syno_nni.errors import GraphError
from syno_nni.operator import Operator, classics
from syno_nni.operator.dot_reader import read_graph_dot

CONV = """digraph kernel {
newrank = true;
op_1 [label="Share"];
op_2 [label="Unfold"];
op_3 [label="Share"];
op_4 [label="Share"];
op_5 [label="Expand"];
reduce_1 [label="Sum", shape=box];
reduce_2 [label="Sum", shape=box];
subgraph cluster_out {
label = "Output";
out_0 [label="N(0)", shape=none];
out_1 [label="C_out(1)", shape=none];
out_2 [label="H(2)", shape=none];
}
{ rank = same;
reduce_1;
}
in_0_0 [label="N(0)", shape=none];
in_0_1 [label="C_in(1)", shape=none];
in_0_2 [label="H(2)", shape=none];
in_1_0 [label="k_1(0)", shape=none];
in_1_1 [label="C_out(1)", shape=none];
in_1_2 [label="C_in(2)", shape=none];
in_0_0 -> out_0 [label="N"];
in_0_1 -> op_1 [label="C_in (->L)"];
in_0_2 -> op_2 [label="H"];
in_1_0 -> op_3 [label="k_1 (->R)"];
in_1_1 -> op_4 [label="C_out (->R)"];
in_1_2 -> op_1 [label="C_in (->R)"];
op_1 -> reduce_1 [label="C_in"];
op_2 -> op_3 [label="k_1 (R->L)"];
op_2 -> out_2 [label="H (L->)"];
op_3 -> reduce_2 [label="k_1"];
op_4 -> out_1 [label="C_out"];
op_5 -> op_4 [label="C_out (->L)"];
}
"""


def test_a_convolution() -> None:
    op = read_graph_dot(CONV)
    assert op == classics.conv1d(length='H')
    # the file's order, not the canonical one
    assert op.weight_shapes({'C_in': 2, 'C_out': 3, 'k_1': 5}) == ((5, 3, 2),)


def view(middle: str, inputs: str, outputs: str = 'out_0 [label="H(0)"];') -> Operator:
    return read_graph_dot(f'digraph kernel {{\n{outputs}\n{inputs}\n{middle}\n}}')


def test_every_primitive() -> None:
    assert view('op_1 [label="Shift"];\nin_0_0 -> op_1 [label="H"];\nop_1 -> out_0 [label="H"];',
                'in_0_0 [label="H(0)"];') == Operator.parse('out[h:H] = in[shift(h, 1)]')
    assert view('op_1 [label="Stride"];\nin_0_0 -> op_1 [label="s*H"];\nop_1 -> out_0 [label="H"];',
                'in_0_0 [label="s*H(0)"];') == Operator.parse('out[h:H] = in[stride(h, s)]')
    assert view('op_1 [label="Merge"];\nin_0_0 -> op_1 [label="s^-1*H (->L)"];\nin_0_1 -> op_1 [label="s (->R)"];\n'
                'op_1 -> out_0 [label="H"];', 'in_0_0 [label="s^-1*H(0)"];\nin_0_1 [label="s(1)"];') == Operator.parse(
                    'out[h:H] = in[h//s, h%s]')
    assert view('op_1 [label="Split"];\nin_0_0 -> op_1 [label="H*s"];\nop_1 -> out_0 [label="H (L->)"];\n'
                'op_1 -> out_1 [label="s (R->)"];', 'in_0_0 [label="s*H(0)"];',
                'out_0 [label="H(0)"];\nout_1 [label="s(1)"];') == Operator.parse('out[h:H, r:s] = in[h*s + r]')


def test_a_repeat_expands_half_of_a_merge() -> None:
    assert view('op_1 [label="Merge"];\nop_2 [label="Expand"];\nin_0_0 -> op_1 [label="s^-1*H (->L)"];\n'
                'op_2 -> op_1 [label="s (->R)"];\nop_1 -> out_0 [label="H"];',
                'in_0_0 [label="s^-1*H(0)"];') == Operator.parse('out[h:H] = in[h//s]')


@pytest.mark.parametrize(('old', 'new', 'message'), [
    ('digraph', 'graph', 'starts with "digraph"'),
    ('"Unfold"', '"Roll"', 'known are Split, Unfold'),
    ('"Unfold"', '"Shift"', 'Shift .op_2. has 1 edges in and 2 out'),
    ('"Sum"', '"Max"', 'only Sum is known'),
    ('op_2 [label="Unfold"]', 'op_1 [label="Unfold"]', 'declared twice'),
    ('out_0 [label="N(0)"', 'out_0 [label="N(1)"', 'wanted "size.0."'),
    ('out_0 [label="N(0)"', 'out_0 [label="N"', 'wanted "size.0."'),
    ('out_0 [label="N(0)"', 'out_0 [label="(0)"', 'wanted "size.0."'),
    ('out_0 [label="N(0)"', f'out_0 [label="N({"0" * 5000})"', 'wanted "size.0."'),
    ('out_0 [', 'out_7 [', 'no output node'),
    ('out_2 [label="H(2)"', 'out_3 [label="H(3)"', 'beyond a gap'),
    ('in_1_2', 'in_1_9', 'beyond a gap'),
    ('in_1_', 'in_2_', 'beyond a gap'),
    ('in_1_', f'in_{"9" * 5000}_', 'beyond a gap'),
    ('in_0_', 'in_5_', 'no input node'),
    ('in_0_0 -> out_0', 'in_0_0 -> op_9', 'is no output, reduction or primitive'),
    ('in_0_2 -> op_2 [label="H"];', '', 'Unfold .op_2. has 0 edges in'),
    ('in_0_2 -> op_2', 'in_0_1 -> op_2', 'must have exactly one edge'),
    ('in_0_2 -> op_2 [label="H"]', 'in_0_2 -> op_2 [label="C_in"]', 'is labelled C_in, and its size is H'),
    ('in_0_2 [label="H(2)"', 'in_0_2 [label="C_in(2)"', 'declared with size C_in'),
    ('C_in (->R)', 'C_in (->L)', 'one edge into port L and one into port R'),
    ('k_1 (R->L)', 'k_1 (L->L)', 'must have one edge out of port L, got 2'),
    ('k_1 (R->L)', 'k_1 (X->L)', 'cannot read label'),
    ('label="C_in (->L)"', 'label="C_in*"', 'cannot read size'),
    ('label="C_in (->L)"', 'label=""', 'short text'),
    ('label="C_in (->L)"', f'label="{" " * 150_000}"', 'short text'),
    ('label="C_in (->L)"', 'label="C_in^99 (->L)"', 'exponent'),
    ('op_2 -> out_2 [label="H (L->)"];', 'op_2 -> op_2 [label="H (L->)"];', 'edges in'),
    ('op_2 -> out_2 [label="H (L->)"];', 'op_2 -> out_2 [label="H"', 'cannot read'),
    ('in_0_0 -> out_0 [label="N"];', 'in_0_0 -> out_2 [label="H"];', 'declared with size N|data-linear'),
    ('newrank', '\n' * 3 + 'x;\n' * 3000 + 'newrank', 'at most 2000 lines'),
    ('newrank', 'x' * 300_000, 'at most 200000 characters'),
    ('k_1', 'k_1' * 100, 'a name of at most'),
])
def test_malformed_files_are_named(old: str, new: str, message: str) -> None:
    assert old in CONV
    with pytest.raises(GraphError, match=message) as caught:
        read_graph_dot(CONV.replace(old, new))
    assert len(str(caught.value)) < 500 and str(caught.value).startswith(('graph.dot', 'illegal operator'))


def test_cycles_are_found() -> None:
    text = ('digraph k {\nout_0 [label="H(0)"];\nin_0_0 [label="H(0)"];\nop_1 [label="Shift"];\nop_2 [label="Shift"];\n'
            'op_3 [label="Share"];\nin_0_0 -> op_3 [label="H (->L)"];\nop_2 -> op_3 [label="H (->R)"];\n'
            'op_3 -> op_1 [label="H"];\nop_1 -> op_2 [label="H"];\n}')
    with pytest.raises(GraphError, match='cycle'):
        read_graph_dot(text)


def test_long_chains_are_refused() -> None:
    lines = ['digraph k {', 'out_0 [label="H(0)"];', 'in_0_0 [label="H(0)"];', 'in_0_0 -> op_0 [label="H"];',
             'op_900 -> out_0 [label="H"];']
    lines += [f'op_{i} [label="Shift"];' for i in range(901)]
    lines += [f'op_{i} -> op_{i + 1} [label="H"];' for i in range(900)]
    with pytest.raises(GraphError, match='primitives in a row'):
        read_graph_dot('\n'.join(lines))


def test_a_graph_that_is_a_huge_tree() -> None:
    """Twenty Splits whose halves are one dimension: two million leaves when written out."""
    lines = ['digraph k {', 'out_0 [label="1(0)"];', 'in_0_0 [label="1(0)"];', 'in_0_0 -> op_0 [label="1"];']
    for i in range(25):
        below = f'op_{i + 1}' if i < 24 else 'out_0'
        lines += [f'op_{i} [label="Split"];', f'op_s{i} [label="Share"];', f'op_s{i} -> {below} [label="1"];',
                  f'op_{i} -> op_s{i} [label="1 (L->L)"];', f'op_{i} -> op_s{i} [label="1 (R->R)"];']
    with pytest.raises(GraphError, match='nodes'):
        read_graph_dot('\n'.join(lines))


@pytest.mark.parametrize('text', [
    None, 3, b'digraph', '', 'digraph', 'digraph {', '\ufeff' + CONV, '\0', '{' * 100_000])
def test_what_is_no_file(text: object) -> None:
    with pytest.raises(GraphError):
        read_graph_dot(text)  # type: ignore[arg-type]
