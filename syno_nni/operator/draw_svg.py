"""An operator as an SVG picture, without any other program: a small layered layout of our own.

The picture has up to three panels: the graph (`graph_panel`), which tensor has which index, and, for given sizes, the
receptive field. It follows the reader's choice of a light or a dark page.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from .canonical import canonical_form
from .draw_text import LEGEND, title
from .expr import Coordinate, Iterator, MergeLeft, MergeRight, Out, Sum
from .formula import names, to_text
from .graph import Graph, tensors
from .receptive_field import ReceptiveField, receptive_field
from .size import Binding
from .touches import DIRECT, touches

_ROW, _GAP, _HEIGHT, _BOX = 74.0, 18.0, 24.0, 34.0
_SWEEPS = 12
_LIGHT = ('#1f4e8c', '#c2570c', '#2e7d32', '#8e24aa', '#00838f', '#ad1457', '#6d4c41', '#827717', '#4527a0')
_DARK = ('#7fb2f0', '#f2a35e', '#7ccb80', '#d59be6', '#56c8d4', '#f08bb0', '#c3a296', '#d0c94f', '#b39df0')
"""The input's colour, then the weights', on a light and on a dark page."""


def _colours(palette: Sequence[str], ink: str, soft: str, page: str, box: str, line: str, summed: str, pill: str) -> str:
    lines = [f'.sy-s{n}{{stroke:{c}}}.sy-f{n}{{fill:{c}}}' for n, c in enumerate(palette)]
    return ''.join(lines) + (
        f'.sy-ink{{fill:{ink}}}.sy-soft{{fill:{soft}}}.sy-page{{fill:{page}}}.sy-box{{fill:{box};stroke:{line}}}'
        f'.sy-cell{{fill:{page}}}.sy-on{{fill:{page}}}.sy-halo{{stroke:{page}}}.sy-line{{stroke:{line}}}'
        f'.sy-sum{{fill:{pill};stroke:{summed}}}.sy-sumtext{{fill:{summed}}}.sy-out{{fill:{soft};stroke:{soft}}}'
        f'.sy-outline{{stroke:{soft}}}')


STYLE = ('.sy text{font-family:Helvetica,Arial,sans-serif}.sy .m{font-family:ui-monospace,Menlo,Consolas,monospace}'
         '.sy path{fill:none}'
         + _colours(_LIGHT, '#1f2630', '#5b6673', '#ffffff', '#f3f4f6', '#9aa5b1', '#b71c1c', '#fdecea')
         + '@media (prefers-color-scheme:dark){'
         + _colours(_DARK, '#e6eaf0', '#9aa7b5', '#171b21', '#262c35', '#596573', '#ff9d94', '#3a2322') + '}')
"""The style of all pictures: light, and dark where the reader prefers it."""


@dataclass
class Panel:
    """Drawn elements with the size that they take, in pixels."""
    width: float
    height: float
    body: list[str] = field(default_factory=list)


def to_svg(op: Graph, sizes: Binding | None = None) -> str:
    """The whole picture of an operator as the text of an SVG file.

    Args:
        op: the operator.
        sizes: a binding, for the receptive field; without it, that panel is left out.

    Raises:
        SizeError: a size is not an integer at the binding.
    """
    op = canonical_form(op)
    right = [touches_panel(op)]
    seen = receptive_field(op, sizes) if sizes is not None else None
    if seen is not None:
        right.append(field_panel(seen))
    graph = _stacked([graph_panel(op), _caption(LEGEND)])
    column = _stacked(right)
    height = max(graph.height, column.height)
    beside = Panel(graph.width + 40 + column.width, height,
                   [*graph.body, f'<g transform="translate({graph.width + 40:.0f} 0)">', *column.body, '</g>'])
    return svg(_stacked([_formula_panel(op, beside.width), beside]))


def svg(panel: Panel, *, style: bool = True, label: str = 'operator') -> str:
    """A panel as an SVG document, which may also stand inside a page (there with ``style`` only once)."""
    width, height = panel.width + 32, panel.height + 32
    return (f'<svg xmlns="http://www.w3.org/2000/svg" class="sy" role="img" aria-label="{escape(label)}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}">'
            + (f'<style>{STYLE}</style>' if style else '')
            + f'<rect class="sy-page" width="{width:.0f}" height="{height:.0f}" rx="6"/><g transform="translate(16 16)">'
            + ''.join(panel.body) + '</g></svg>')


# ---- the graph ----

@dataclass
class _Item:
    """Something in a row of the layout: a box, a cell of a tensor, or the bend of a long line."""
    row: int
    width: float
    x: float = 0.0  # of its middle
    up: list[_Item] = field(default_factory=list)
    down: list[_Item] = field(default_factory=list)


@dataclass
class _Box:
    """A tensor: cells side by side under one caption."""
    caption: str
    colour: int
    cells: list[_Item]
    texts: list[str]

    @property
    def width(self) -> float:
        return sum(cell.width for cell in self.cells)


def graph_panel(op: Graph) -> Panel:
    """The graph alone: input and weights on top, primitives in between, the output at the bottom."""
    return _GraphLayout(canonical_form(op)).panel()


class _GraphLayout:
    def __init__(self, op: Graph) -> None:
        self.op = op
        self.name = names(op)
        self.base = 1 if op.reductions else 0
        self.items: dict[object, _Item] = {}
        self.nodes: dict[object, Coordinate] = {}
        self.edges: dict[tuple[int, int], tuple[_Item, _Item, str, list[int]]] = {}
        given = list(tensors(op))
        self.top = 1 + max([self.base, *(self._row(c) for _, coordinates in given for c in coordinates)])
        self.output = self._box('output', -1, [f'{self.name[o]} : {o.size}' for o in op.outs()], 0)
        self.boxes = [self._box('input' if tensor == 'in' else f'weight {tensor}', n, [str(c.size) for c in coordinates],
                                self.top) for n, (tensor, coordinates) in enumerate(given)]
        for box, (_, coordinates) in zip(self.boxes, given):
            for cell, coordinate in zip(box.cells, coordinates):
                self._edge(cell, coordinate, '', box.colour)
        self.paths = [(self._bent(a, b), text, colours) for a, b, text, colours in self.edges.values()]

    # building
    def _row(self, node: Coordinate) -> int:
        if isinstance(node, Out):
            return 0
        if isinstance(node, Sum):
            return 1
        return 1 + max(self.base, *(self._row(c) for c in node.bottom))

    def _box(self, caption: str, colour: int, texts: list[str], row: int) -> _Box:
        texts = texts or ['scalar']
        widths = [max(30.0, 16 + _width(text, 11)) for text in texts]
        lacking = 16 + _width(caption, 11.5) - sum(widths)
        if lacking > 0:
            widths = [w + lacking / len(widths) for w in widths]
        return _Box(caption, colour, [_Item(row, w) for w in widths], texts)

    def _item(self, node: Coordinate) -> _Item:
        if isinstance(node, Out):
            return self.output.cells[node.index]
        # Both halves of a Merge are one box.
        key = ('merge', node.of, node.block) if isinstance(node, (MergeLeft, MergeRight)) else node
        if key not in self.items:
            head, words = title(node, self.name)
            width = (_width(f'{head} : {node.size}', 11) + 20 if isinstance(node, Sum)
                     else max(_width(head, 11), _width(words, 9)) + 18)
            self.items[key] = _Item(self._row(node), width)
            self.nodes[key] = node
        return self.items[key]

    def _edge(self, above: _Item, node: Coordinate, text: str, colour: int) -> None:
        below = self._item(node)
        *_, colours = self.edges.setdefault((id(above), id(below)), (above, below, text, []))
        if colour in colours:
            return
        colours.append(colour)
        for child in node.bottom:
            self._edge(below, child, '' if isinstance(child, Iterator) else str(child.size), colour)

    def _bent(self, above: _Item, below: _Item) -> list[_Item]:
        """The items of a line, with a bend in every row that it passes."""
        path = [above, *(_Item(row, 0) for row in range(above.row - 1, below.row, -1)), below]
        for a, b in zip(path, path[1:]):
            a.down.append(b)
            b.up.append(a)
        return path

    # placing
    def _place(self) -> None:
        rows = self._rows()
        at = 0.0
        for box in self.boxes:
            at = _spread(box, at) + 2 * _GAP
        middle = range(self.top - 1, 0, -1)
        for _ in range(_SWEEPS):
            for row in middle:
                self._order(rows, row, lambda item: item.up)
            self._place_output()
            for row in reversed(middle):
                self._order(rows, row, lambda item: [*item.up, *item.down])
        self._place_output()

    def _rows(self) -> dict[int, list[_Item]]:
        rows: dict[int, list[_Item]] = {}
        for items in (self.items.values(), [b for path, _, _ in self.paths for b in path[1:-1]]):
            for item in items:
                rows.setdefault(item.row, []).append(item)
        return rows

    def _order(self, rows: dict[int, list[_Item]], row: int, beside: Callable[[_Item], list[_Item]]) -> None:
        items = rows.get(row, [])
        wanted = {id(item): _mean(other.x for other in beside(item)) for item in items}
        items.sort(key=lambda item: wanted[id(item)])
        _settle(items, [wanted[id(item)] for item in items])

    def _place_output(self) -> None:
        offset, at = [], 0.0
        for cell in self.output.cells:
            offset.append(at + cell.width / 2)
            at += cell.width
        wanted = [_mean(up.x for up in cell.up) - o for cell, o in zip(self.output.cells, offset) if cell.up]
        _spread(self.output, _mean(wanted) if wanted else 0.0)

    # drawing
    def panel(self) -> Panel:
        self._place()
        every = [*self.items.values(), *self.output.cells, *(c for b in self.boxes for c in b.cells),
                 *(bend for path, _, _ in self.paths for bend in path)]
        left = min(item.x - item.width / 2 for item in every)
        for item in {id(item): item for item in every}.values():
            item.x -= left
        width = max(item.x + item.width / 2 for item in every)
        body = [piece for path, _, colours in self.paths for piece in self._line(path, colours)]
        body += [piece for path, text, _ in self.paths for piece in self._label(path, text)]
        for key, item in self.items.items():
            body += self._draw(self.nodes[key], item)
        for box in (*self.boxes, self.output):
            body += self._draw_box(box)
        return Panel(width, self._y(0) + 2 * _HEIGHT, body)

    def _y(self, row: int) -> float:
        """The top of a row."""
        return (self.top - row) * _ROW + (_HEIGHT if row < self.top else 0)

    def _line(self, path: list[_Item], colours: list[int]) -> list[str]:
        pieces = []
        for n, colour in enumerate(colours):
            shift = (n - (len(colours) - 1) / 2) * 3.2
            points: list[tuple[float, float]] = []
            for item in path:
                x, top = item.x + shift, self._y(item.row)
                if item is path[0]:
                    points = [(x, top + (2 * _HEIGHT if item.row == self.top else _BOX))]
                elif item is path[-1]:
                    points.append((x, top))
                else:  # upright beside the boxes of the row
                    points += [(x, top), (x, top + _BOX)]
            pieces.append(f'<path class="sy-s{_hue(colour)}" stroke-width="1.6" d="{_curve(points)}"/>')
        return pieces

    def _label(self, path: list[_Item], text: str) -> list[str]:
        if not text:
            return []
        (x0, y0), (x1, y1) = ((path[0].x, self._y(path[0].row) + _BOX), (path[1].x, self._y(path[1].row)))
        return [_text((x0 + x1) / 2, (y0 + y1) / 2 + 3, text, 9.5, 'sy-soft sy-halo', anchor='middle', halo=True)]

    def _draw(self, node: Coordinate, item: _Item) -> list[str]:
        head, words = title(node, self.name)
        y, x = self._y(item.row), item.x - item.width / 2
        if isinstance(node, Sum):
            return [f'<rect class="sy-sum" x="{x:.1f}" y="{y:.1f}" width="{item.width:.1f}" height="{_HEIGHT:.0f}" rx="12"/>',
                    _text(item.x, y + 16, f'{head} : {node.size}', 11, 'sy-sumtext', anchor='middle')]
        return [f'<rect class="sy-box" x="{x:.1f}" y="{y:.1f}" width="{item.width:.1f}" height="{_BOX:.0f}" rx="6"/>',
                _text(item.x, y + 14, head, 11, 'sy-ink', anchor='middle', bold=True),
                _text(item.x, y + 27, words, 9, 'sy-soft', anchor='middle')]

    def _draw_box(self, box: _Box) -> list[str]:
        row = box.cells[0].row
        y, x = self._y(row), box.cells[0].x - box.cells[0].width / 2
        caption, cells = (y, y + _HEIGHT) if row else (y + _HEIGHT, y)
        hue = _hue(box.colour)
        fill, stroke = ('sy-out', 'sy-outline') if box.colour < 0 else (f'sy-f{hue} sy-s{hue}', f'sy-s{hue}')
        body = []
        for cell, text in zip(box.cells, box.texts):
            body.append(f'<rect class="sy-cell {stroke}" x="{cell.x - cell.width / 2:.1f}" y="{cells:.1f}" '
                        f'width="{cell.width:.1f}" height="{_HEIGHT:.0f}"/>')
            body.append(_text(cell.x, cells + 16, text, 11, 'sy-ink', anchor='middle'))
        body.append(f'<rect class="{fill}" x="{x:.1f}" y="{caption:.1f}" width="{box.width:.1f}" height="{_HEIGHT:.0f}"/>')
        body.append(_text(x + box.width / 2, caption + 16, box.caption, 11.5, 'sy-on', anchor='middle', bold=True))
        return body


def _curve(points: Sequence[tuple[float, float]]) -> str:
    """A smooth path through points from top to bottom, upright at each of them."""
    parts = [f'M{points[0][0]:.1f} {points[0][1]:.1f}']
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        bend = (y1 - y0) / 2
        parts.append(f'C{x0:.1f} {y0 + bend:.1f} {x1:.1f} {y1 - bend:.1f} {x1:.1f} {y1:.1f}')
    return ''.join(parts)


def _spread(box: _Box, left: float) -> float:
    """Put a tensor's cells side by side from ``left``; return where they end."""
    for cell in box.cells:
        cell.x = left + cell.width / 2
        left += cell.width
    return left


def _settle(items: list[_Item], wanted: list[float]) -> None:
    """Place a row in the order given, as near to the places wanted (least squares) as the widths allow."""
    offsets, blocks = [0.0], []
    for a, b in zip(items, items[1:]):
        offsets.append(offsets[-1] + (a.width + b.width) / 2 + (_GAP if a.width or b.width else _GAP / 2))
    for target, offset in zip(wanted, offsets):
        blocks.append([target - offset, 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            before, others = blocks[-1]
            blocks[-1] = [(before * others + mean * count) / (others + count), others + count]
    places = [mean for mean, count in blocks for _ in range(round(count))]
    for item, place, offset in zip(items, places, offsets):
        item.x = place + offset


def _mean(numbers: Iterable[float]) -> float:
    values = list(numbers)
    return sum(values) / len(values) if values else 0.0


def _hue(colour: int) -> int:
    return colour if colour <= 0 else (colour - 1) % (len(_LIGHT) - 1) + 1


# ---- the other panels ----

def touches_panel(op: Graph) -> Panel:
    """Which tensor has which index, as a table of dots."""
    table = touches(canonical_form(op))
    label = max([_width(f'{name} : {size}', 11) for name, size, *_ in table.rows], default=0) + 14
    step, line = 34.0, 21.0
    body = [_text(0, 12, 'Which tensor has which index', 12, 'sy-ink', bold=True)]
    for n, tensor in enumerate(table.tensors):
        hue = 'sy-soft' if tensor == 'out' else f'sy-f{_hue(n)}'
        body.append(_text(label + n * step + step / 2, 34, tensor, 11, hue, anchor='middle', bold=True))
    for r, (name, size, role, marks) in enumerate(table.rows):
        y = 54 + r * line
        body.append(_text(0, y, f'{name} : {size}', 11, 'sy-ink' if role == 'output' else 'sy-sumtext'))
        for n, mark in enumerate(marks):
            x = label + n * step + step / 2
            last = n == len(marks) - 1
            fill, stroke = ('sy-out', 'sy-outline') if last else (f'sy-f{_hue(n)}', f'sy-s{_hue(n)}')
            if mark:
                shape = f'class="{fill}"' if mark == DIRECT else f'class="sy-cell {stroke}" stroke-width="1.6"'
                body.append(f'<circle {shape} cx="{x:.1f}" cy="{y - 4:.1f}" r="5"/>')
            else:
                body.append(f'<circle class="sy-soft" cx="{x:.1f}" cy="{y - 4:.1f}" r="1"/>')
    y = 54 + len(table.rows) * line
    body.append(_text(0, y + 2, 'filled: a dimension of its own; ring: part of one. Red: summed.', 9.5, 'sy-soft'))
    return Panel(max(label + len(table.tensors) * step, 270), y + 10, body)


def field_panel(seen: ReceptiveField, *, heading: bool = True) -> Panel:
    """The receptive field as a grid of squares, darker where more channels are read."""
    part, (top, left), center = seen.cropped()
    rows, columns = part.shape
    cell = min(18.0, 240 / max(rows, columns))
    start = 22.0 if heading else 0.0
    body = [_text(0, 12, 'Receptive field', 12, 'sy-ink', bold=True)] if heading else []
    for r in range(rows):
        for c in range(columns):
            share = float(part[r, c])
            place = f'x="{c * cell:.1f}" y="{start + r * cell:.1f}" width="{cell:.1f}" height="{cell:.1f}"'
            body.append(f'<rect class="sy-cell sy-line" stroke-width=".6" {place}/>')
            if share > 0:
                body.append(f'<rect class="sy-f0" fill-opacity="{0.35 + 0.65 * share:.2f}" {place}/>')
    if center is not None:
        body.append(f'<rect class="sy-sumring sy-s1" fill="none" stroke-width="2" x="{center[1] * cell:.1f}" '
                    f'y="{start + center[0] * cell:.1f}" width="{cell:.1f}" height="{cell:.1f}"/>')
    y = start + rows * cell + 16
    lines = _wrapped(seen.words() + ("; framed: the output's own position" if center is not None else ''), 46)
    if part.shape != seen.grid.shape:
        lines.append(f'(a part of the map, from row {top}, column {left})')
    body += [_text(0, y + 13 * n, line, 9.5, 'sy-soft') for n, line in enumerate(lines)]
    return Panel(max(columns * cell, 230), y + 13 * len(lines), body)


def _formula_panel(op: Graph, width: float) -> Panel:
    lines = _wrapped(to_text(op), max(int(width / 7.3), 40))
    return Panel(width, 17.0 * len(lines) + 4, [_text(0, 13 + 17 * n, line, 12, 'sy-ink m') for n, line in enumerate(lines)])


def _caption(text: str) -> Panel:
    return Panel(_width(text, 9.5), 14, [_text(0, 11, text, 9.5, 'sy-soft')])


def _stacked(panels: Sequence[Panel]) -> Panel:
    body, y = [], 0.0
    for panel in panels:
        body += [f'<g transform="translate(0 {y:.0f})">', *panel.body, '</g>']
        y += panel.height + 22
    return Panel(max(p.width for p in panels), y - 22, body)


def _text(x: float, y: float, text: str, size: float, classes: str, *, anchor: str = '', bold: bool = False,
          halo: bool = False) -> str:
    more = (f' text-anchor="{anchor}"' if anchor else '') + (' font-weight="bold"' if bold else '')
    more += ' stroke-width="4" paint-order="stroke"' if halo else ''
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}" font-size="{size:g}"{more}>{escape(text)}</text>'


def _width(text: str, size: float) -> float:
    """About how wide a text is in Helvetica."""
    return len(text) * size * 0.56


def _wrapped(text: str, width: int) -> list[str]:
    lines = ['']
    for word in text.split(' '):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append('')
        lines[-1] += (' ' if lines[-1] else '') + word
    return lines


__all__ = ['STYLE', 'Panel', 'field_panel', 'graph_panel', 'svg', 'to_svg', 'touches_panel']
