"""An operator as a picture: the input and the weights on top, the output at the bottom, primitives in between.

Read downwards, a picture tells what happens to the dimensions of the input: they are cut, joined, rolled, looked at
through windows, multiplied with weights where their lines meet, and summed. `draw` writes files, `to_dot` gives the
Graphviz source, `to_text_graph` the same as text for terminals and logs.
"""
from __future__ import annotations

import html
import os
import shutil
import subprocess
from pathlib import Path

from syno_nni.errors import GraphError

from .canonical import canonical_form
from .expr import Coordinate, Iterator, MergeLeft, MergeRight, Out, Shift, Split, Stride, Sum, Unfold
from .formula import names
from .graph import Graph, tensors

IMAGES = ('.svg', '.png', '.pdf')
TIMEOUT = 60.0  # seconds; Graphviz needs well under one
_INPUT_COLOUR = '#1f4e8c'
_WEIGHT_COLOURS = ('#c2570c', '#2e7d32', '#8e24aa', '#00838f', '#ad1457', '#6d4c41', '#827717', '#4527a0')
_OUTPUT_COLOUR = '#37474f'
_SUM_COLOUR = '#b71c1c'
_LEGEND = 'Where lines of several tensors end in one place, they are multiplied; Σ sums the products.'


def draw(op: Graph, path: str | os.PathLike[str]) -> Path:
    """Writes a picture of ``op``; the suffix of ``path`` says which: .svg, .png or .pdf, .dot, or .txt for text.

    Returns:
        The path written.

    Raises:
        GraphError: the suffix is another, or an image is wanted and Graphviz's ``dot`` is missing or fails.
    """
    path = Path(path)
    if path.suffix == '.txt':
        path.write_text(to_text_graph(op) + '\n', encoding='utf-8')
    elif path.suffix == '.dot':
        path.write_text(to_dot(op), encoding='utf-8')
    elif path.suffix in IMAGES:
        path.write_bytes(_render(to_dot(op), path.suffix[1:]))
    else:
        raise GraphError(f'draw: cannot write {path.name!r}; the name must end in {", ".join(IMAGES)}, .dot or .txt')
    return path


def _render(source: str, kind: str) -> bytes:
    program = shutil.which('dot')
    if program is None:
        raise GraphError('draw: the program dot of Graphviz is not on the PATH; install Graphviz (apt install graphviz '
                         'or brew install graphviz), or write .txt or .dot instead')
    try:
        done = subprocess.run([program, f'-T{kind}'], input=source.encode(), capture_output=True, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GraphError(f'draw: dot failed: {error}; write .txt or .dot instead') from None
    if done.returncode:
        raise GraphError(f'draw: dot failed: {done.stderr.decode(errors="replace")[:300]}; write .txt or .dot instead')
    return done.stdout


def title(node: Coordinate, name: dict[Iterator, str]) -> tuple[str, str]:
    """What a node is called, and what it does to the dimension that comes from above, in words."""
    match node:
        case Out():
            return f'{name[node]}', ''
        case Sum():
            return f'Σ {name[node]}', ''
        case Split():
            return 'Split', f'cut into {node.left.size} × {node.right.size}'
        case Unfold():
            return 'Unfold', f'slide a window of {node.right.size}'
        case Shift():
            return 'Shift', f'roll by {node.offset:+d}'
        case Stride():
            return 'Stride', f'keep every {node.step}-th'
        case MergeLeft() | MergeRight():
            return 'Merge', f'join {node.of.size / node.block} × {node.block}'
    raise AssertionError(node)


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
            f'  label=<<font face="Helvetica" point-size="9" color="#6b7280">{_LEGEND}</font>>; labelloc=b;']
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


# ---- text ----

def to_text_graph(op: Graph) -> str:
    """The picture as text: a tree for every tensor, from its dimensions down to output indices and sums."""
    op = canonical_form(op)
    name = names(op)
    lines: list[str] = []
    for tensor, coordinates in tensors(op):
        lines.append('input' if tensor == 'in' else f'weight {tensor}')
        for at, coordinate in enumerate(coordinates):
            last = at == len(coordinates) - 1
            block = _tree(coordinate, name)
            lines.append(f'{"└─" if last else "├─"} {block[0]}')
            lines += [f'{"  " if last else "│ "} {line}' for line in block[1:]]
        if not coordinates:
            lines.append('└─ a scalar')
    lines.append(f'output [{", ".join(f"{name[o]}: {o.size}" for o in op.outs())}]')
    used = {leaf for _, coordinates in tensors(op) for c in coordinates for leaf in c.iterators()}
    idle = [f'{name[it]} ({it.size})' for it in op.iterators() if it not in used]
    return '\n'.join([*lines, *([f'in no tensor, so repeated: {", ".join(idle)}'] if idle else [])])


def _tree(node: Coordinate, name: dict[Iterator, str]) -> list[str]:
    head, words = title(node, name)
    if isinstance(node, Iterator):
        return [f'{node.size} ── {"output " if isinstance(node, Out) else ""}{head}']
    if isinstance(node, (MergeLeft, MergeRight)):
        words += ': outer' if isinstance(node, MergeLeft) else ': inner'
    lead = f'{node.size} ── {head} ({words})'
    blocks = [_tree(child, name) for child in node.bottom]
    if len(blocks) == 1:
        first, *rest = blocks[0]
        return [f'{lead} ── {first}', *(' ' * (len(lead) + 4) + line for line in rest)]
    pad = ' ' * (len(lead) + 1)
    (first, *upper), (second, *lower) = blocks
    return [f'{lead} ─┬─ {first}', *(f'{pad} │  {line}' for line in upper), f'{pad} └─ {second}',
            *(f'{pad}    {line}' for line in lower)]
