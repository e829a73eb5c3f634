"""Which tensors have which indices: what a weight can tell apart, and what it is shared over."""
from __future__ import annotations

from dataclasses import dataclass

from .formula import names
from .graph import Graph, tensors

DIRECT, INSIDE = '●', '○'


@dataclass(frozen=True)
class Touches:
    """A table with one row for each index of the formula.

    Attributes:
        tensors: the columns: ``in``, ``w1``, ..., ``out``.
        rows: name, size and role (``output`` or ``summed``) of each index, and for each tensor ``●`` where the index is a
            dimension of it as it stands, ``○`` where it is a part of one (of a window, a group, ...), or ``''``.
    """
    tensors: tuple[str, ...]
    rows: tuple[tuple[str, str, str, tuple[str, ...]], ...]

    def to_text(self) -> str:
        """The table for terminals."""
        width = max([len(f'{name}: {size}') for name, size, *_ in self.rows], default=0)
        cells = [max(len(t), 3) for t in self.tensors]
        lines = [' ' * width + '  ' + '  '.join(t.center(n) for t, n in zip(self.tensors, cells))]
        for name, size, role, marks in self.rows:
            row = '  '.join((mark or '.').center(n) for mark, n in zip(marks, cells))
            lines.append(f'{f"{name}: {size}":<{width}}  {row}' + ('   summed' if role == 'summed' else ''))
        return '\n'.join(line.rstrip() for line in lines)


def touches(op: Graph) -> Touches:
    """The table of an operator as it stands; give the canonical form for names that agree with its formula."""
    name = names(op)
    columns = list(tensors(op))
    rows = []
    for it in op.iterators():
        marks = []
        for _, coordinates in columns:
            direct = it in coordinates
            inside = any(it in coordinate.iterators() for coordinate in coordinates)
            marks.append(DIRECT if direct else INSIDE if inside else '')
        output = it in op.outs()
        rows.append((name[it], str(it.size), 'output' if output else 'summed', (*marks, DIRECT if output else '')))
    return Touches((*(t for t, _ in columns), 'out'), tuple(rows))
