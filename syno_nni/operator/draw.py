"""An operator as a picture: the input and the weights on top, the output at the bottom, primitives in between.

Read downwards, a picture tells what happens to the dimensions of the input: they are cut, joined, rolled, looked at
through windows, multiplied with weights where their lines meet, and summed. `draw` writes files: SVG by a layout of our
own (`draw_svg`), text (`draw_text`), and PNG and PDF by Graphviz, whose source `to_dot` gives.
"""
from __future__ import annotations

import html
import os
import shutil
import subprocess
from pathlib import Path

from syno_nni.errors import GraphError

from .canonical import canonical_form
from .draw_svg import to_svg
from .draw_text import LEGEND, title, to_text_drawing, to_text_graph
from .expr import Coordinate, Iterator, MergeLeft, MergeRight, Out, Sum
from .formula import names
from .graph import Graph, tensors
from .size import Binding

BY_GRAPHVIZ = ('.png', '.pdf')
TIMEOUT = 60.0  # seconds; Graphviz needs well under one
_INPUT_COLOUR = '#1f4e8c'
_WEIGHT_COLOURS = ('#c2570c', '#2e7d32', '#8e24aa', '#00838f', '#ad1457', '#6d4c41', '#827717', '#4527a0')
_OUTPUT_COLOUR = '#37474f'
_SUM_COLOUR = '#b71c1c'


def draw(op: Graph, path: str | os.PathLike[str], sizes: Binding | None = None) -> Path:
    """Writes a picture of ``op``; the suffix of ``path`` says which: .svg, .txt or .dot, or .png or .pdf by Graphviz.

    Args:
        op: the operator.
        path: the file.
        sizes: a binding; .svg and .txt then show the receptive field too.

    Returns:
        The path written.

    Raises:
        GraphError: the suffix is another, or .png or .pdf is wanted and Graphviz's ``dot`` is missing or fails.
        SizeError: a size is not an integer at the binding.
    """
    path = Path(path)
    if path.suffix == '.svg':
        path.write_text(to_svg(op, sizes), encoding='utf-8')
    elif path.suffix == '.txt':
        path.write_text((to_text_graph(op) if sizes is None else to_text_drawing(op, sizes)) + '\n', encoding='utf-8')
    elif path.suffix == '.dot':
        path.write_text(to_dot(op), encoding='utf-8')
    elif path.suffix in BY_GRAPHVIZ:
        path.write_bytes(_render(to_dot(op), path.suffix[1:]))
    else:
        raise GraphError(f'draw: cannot write {path.name!r}; the name must end in .svg, {", ".join(BY_GRAPHVIZ)}, .dot or '
                         '.txt')
    return path


def _render(source: str, kind: str) -> bytes:
    program = shutil.which('dot')
    if program is None:
        raise GraphError('draw: the program dot of Graphviz is not on the PATH; install Graphviz (apt install graphviz '
                         'or brew install graphviz), or write .svg, .txt or .dot instead')
    try:
        done = subprocess.run([program, f'-T{kind}'], input=source.encode(), capture_output=True, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GraphError(f'draw: dot failed: {error}; write .svg, .txt or .dot instead') from None
    if done.returncode:
        raise GraphError(f'draw: dot failed: {done.stderr.decode(errors="replace")[:300]}; write .svg, .txt or .dot instead')
    return done.stdout


# ---- Graphviz ----

def to_dot(op: Graph) -> str:
    """The Graphviz source of the picture."""
    return _Dot(op).source()


class _Dot:
    def __init__(self, op: Graph) -> None:
        self.op = canonical_form(op)
        self.name = names(self.op)
        self.lines: list[str] = []
        self.ids: dict[object, str] = {}
        self.edges: dict[tuple[str, str, str], list[str]] = {}  # (from, to, label): colours, one for each tensor

    def source(self) -> str:
        self.lines = [
            'digraph operator {',
            '  rankdir=TB; ranksep=0.35; nodesep=0.3; bgcolor=white; splines=true;',
            '  node [fontname="Helvetica", fontsize=11, shape=plain];',
            '  edge [fontname="Helvetica", fontsize=9, arrowsize=0.6, penwidth=1.4];',
            f'  label=<<font face="Helvetica" point-size="9" color="#6b7280">{LEGEND}</font>>; labelloc=b;']
        ranked: list[str] = []
        for number, (tensor, coordinates) in enumerate(tensors(self.op)):
            colour = _WEIGHT_COLOURS[(number - 1) % len(_WEIGHT_COLOURS)] if number else _INPUT_COLOUR
            caption = 'input' if tensor == 'in' else f'weight {tensor}'
            table = _table(caption, [str(c.size) for c in coordinates], colour, below=False)
            self.lines.append(f'  {tensor} [label={table}, ordering=out];')
            ranked.append(tensor)
            for at, coordinate in enumerate(coordinates):
                self._edge(f'{tensor}:c{at}:s', coordinate, '', colour)
        # Invisible lines keep the input at the left of its weights.
        order = f'{" -> ".join(ranked)} [style=invis]' if len(ranked) > 1 else ranked[0]
        self.lines.append(f'  {{ rank=source; {order}; }}')
        cells = [f'{self.name[o]} : {o.size}' for o in self.op.outs()]
        self.lines.append(f'  out [label={_table("output", cells, _OUTPUT_COLOUR, below=True)}];')
        self.lines.append('  { rank=sink; out; }')
        sums = [self.ids[s] for s in self.op.sums() if s in self.ids]
        if sums:
            self.lines.append(f'  {{ rank=same; {"; ".join(sums)}; }}')
        self.lines += [f'  {a} -> {b} [color="{":".join(colours)}"{label}];'
                       for (a, b, label), colours in self.edges.items()]
        return '\n'.join([*self.lines, '}', ''])

    def _edge(self, above: str, node: Coordinate, size: str, colour: str) -> None:
        """Draws the line into ``node`` and everything below it, in the colour of the tensor it comes from."""
        label = f', label=" {_escape(size)} ", fontcolor="#444444"' if size else ''
        colours = self.edges.setdefault((above, self._node(node), label), [])
        if colour in colours:
            return
        colours.append(colour)
        if isinstance(node, Iterator):
            return
        for below in node.bottom:
            self._edge(self._node(node), below, str(below.size), colour)

    def _node(self, node: Coordinate) -> str:
        """Where a line to ``node`` ends; declares the node the first time."""
        if isinstance(node, Out):
            return f'out:c{node.index}:n'
        # Both halves of a Merge are one box.
        key = ('merge', node.of, node.block) if isinstance(node, (MergeLeft, MergeRight)) else node
        if key not in self.ids:
            self.ids[key] = f'p{len(self.ids)}'
            self.lines.append(f'  {self.ids[key]} [{self._style(node)}];')
        return self.ids[key]

    def _style(self, node: Coordinate) -> str:
        head, words = title(node, self.name)
        if isinstance(node, Sum):
            return (f'shape=box, style="rounded,filled", fillcolor="#fdecea", color="{_SUM_COLOUR}", '
                    f'fontcolor="{_SUM_COLOUR}", margin="0.08,0.04", height=0.3, '
                    f'label="{_escape(head)} : {_escape(str(node.size))}"')
        return (f'shape=box, style="rounded,filled", fillcolor="#f3f4f6", color="#6b7280", margin="0.1,0.05", '
                f'height=0.3, label=<<b>{html.escape(head)}</b><br/><font point-size="9">{html.escape(words)}</font>>')


def _escape(text: str) -> str:
    return text.replace('\\', '\\\\').replace('"', '\\"')


def _table(caption: str, cells: list[str], colour: str, below: bool) -> str:
    """A tensor: a coloured caption and one cell for each dimension, on the side where the lines are."""
    head = (f'<tr><td colspan="{max(len(cells), 1)}" bgcolor="{colour}" border="1" color="{colour}">'
            f'<font color="white"><b>{html.escape(caption)}</b></font></td></tr>')
    row = ''.join(f'<td port="c{at}" border="1" color="{colour}">{html.escape(cell)}</td>'
                  for at, cell in enumerate(cells))
    row = f'<tr>{row or "<td>scalar</td>"}</tr>'
    rows = row + head if below else head + row
    return f'<<table border="0" cellborder="0" cellspacing="0" cellpadding="5">{rows}</table>>'


__all__ = ['draw', 'to_dot', 'to_svg', 'to_text_drawing', 'to_text_graph']
