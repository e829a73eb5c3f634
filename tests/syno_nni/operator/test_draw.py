from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given, settings

from syno_nni.errors import GraphError
from syno_nni.operator import Operator, classics
from syno_nni.operator.draw import draw, to_dot, to_svg, to_text_graph
from syno_nni.operator.draw_svg import svg, touches_panel

from ...testing.operators import operators

needs_graphviz = pytest.mark.skipif(shutil.which('dot') is None, reason='Graphviz is not installed')


def test_text() -> None:
    assert to_text_graph(classics.operator_2()) == '\n'.join([
        'input',
        '├─ N ── output n',
        '├─ C_in ── Split (cut into g × C_in/g) ─┬─ g ── Σ r',
        '│                                       └─ C_in/g ── Σ c',
        '├─ H ── Shift (roll by +1) ── H ── Unfold (slide a window of k_1) ─┬─ H ── output h',
        '│                                                                  └─ k_1 ── Σ i',
        '└─ H ── Unfold (slide a window of k_1) ─┬─ H ── output w',
        '                                        └─ k_1 ── Σ j',
        'weight w1',
        '├─ C_out ── output o',
        '├─ g ── Σ r',
        '├─ k_1 ── Σ i',
        '└─ C_out/g/s ── Σ d',
        'weight w2',
        '├─ k_1 ── Σ j',
        '├─ C_out/g/s ── Σ d',
        '└─ C_in ── Split (cut into g × C_in/g) ─┬─ g ── Σ r',
        '                                        └─ C_in/g ── Σ c',
        'output [n: N, o: C_out, h: H, w: H]'])


def test_repeats_and_scalars_are_told() -> None:
    text = to_text_graph(Operator.parse('out[h:H, w:W] = sum[r:g] in[h//s] * w1[]'))
    assert 'in no tensor, so repeated: w (W), r (g)' in text
    assert '└─ a scalar' in text and 'join H/s × s: outer' in text


@settings(max_examples=40, deadline=None, derandomize=True)
@given(operators())
def test_every_operator_has_both_forms(drawn: tuple[Operator, dict[str, int]]) -> None:
    op, _ = drawn
    source, text = to_dot(op), to_text_graph(op)
    assert source.count('label="Σ ') == len(
        {leaf for t in (op.inputs, *op.weights) for c in t for leaf in c.iterators() if leaf.kind == 'sum'})
    for words in [f'weight w{n}' for n in range(1, len(op.weights) + 1)] + ['output', 'input']:
        assert words in source and words in text


def test_isomorphic_operators_look_alike() -> None:
    other = Operator.parse('out[n:N, o:C_out, h:H, w:H] = sum[a:k_1, b:k_1, c:C_in] '
                           'in[n, c, unfold(h, b), unfold(w, a)] * w1[c, a, o, b]')
    assert to_dot(other) == to_dot(classics.conv2d())


SVG = '{http://www.w3.org/2000/svg}'


def boxes(root: ET.Element) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of the primitives' boxes."""
    found = [[float(r.get(k, 0)) for k in ('x', 'y', 'width', 'height')] for r in root.iter(f'{SVG}rect')
             if r.get('class') in ('sy-box', 'sy-sum')]
    return [(x, y, x + w, y + h) for x, y, w, h in found]


@pytest.mark.parametrize('name', classics.CLASSICS)
def test_svg(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PATH', str(tmp_path))  # no Graphviz
    op = classics.CLASSICS[name]()
    path = draw(op, tmp_path / 'op.svg')
    texts = {(node.text or '').strip() for node in ET.parse(path).iter(f'{SVG}text')}
    assert {'input', 'output'} <= texts
    assert not any('Receptive' in text for text in texts)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(operators())
def test_every_operator_has_an_svg_whose_boxes_do_not_overlap(drawn: tuple[Operator, dict[str, int]]) -> None:
    op, sizes = drawn
    text = to_svg(op, sizes)
    assert text == to_svg(op, sizes)
    root = ET.fromstring(text)
    texts = [(node.text or '').strip() for node in root.iter(f'{SVG}text')]
    for words in [f'weight w{n}' for n in range(1, len(op.weights) + 1)] + ['output', 'input', 'Receptive field']:
        assert words in texts
    width, height = float(root.get('width', 0)), float(root.get('height', 0))
    found = boxes(root)
    for n, (left, top, right, bottom) in enumerate(found):
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        for a, b, c, d in found[:n]:
            assert right <= a or c <= left or bottom <= b or d <= top


def test_svg_escapes_names() -> None:
    op = Operator.parse('out[n:N, h:H] = in[n, shift(h, 1)]')
    assert ET.fromstring(svg(touches_panel(op), label='<&">')).get('aria-label') == '<&">'


@needs_graphviz
def test_png(tmp_path: Path) -> None:
    assert draw(classics.conv2d(), tmp_path / 'op.png').read_bytes().startswith(b'\x89PNG')


def test_dot_and_text(tmp_path: Path) -> None:
    op = classics.conv2d()
    assert draw(op, str(tmp_path / 'op.dot')).read_text() == to_dot(op)
    assert draw(op, tmp_path / 'op.txt').read_text() == to_text_graph(op) + '\n'
    sizes = {'N': 1, 'C_in': 4, 'C_out': 4, 'H': 8, 'k_1': 3}
    assert 'Receptive field: one output reads 3 x 3 of 8 x 8' in draw(op, tmp_path / 'op.txt', sizes).read_text()


def test_other_suffixes_and_missing_graphviz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GraphError, match=r'must end in \.svg'):
        draw(classics.conv2d(), tmp_path / 'op.bmp')
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(GraphError, match='install Graphviz'):
        draw(classics.conv2d(), tmp_path / 'op.png')
    assert draw(classics.conv2d(), tmp_path / 'op.txt').exists()
