"""Plain-text forms of numbers and tables, shared by reports and commands."""
from __future__ import annotations

from collections.abc import Collection, Sequence


def quantity(number: float | None) -> str:
    """A count with a metric prefix: 1814073344 is ``1.81G``; None is empty."""
    if number is None:
        return ''
    for limit, prefix in ((10 ** 12, 'T'), (10 ** 9, 'G'), (10 ** 6, 'M'), (10 ** 3, 'k')):
        if abs(number) >= limit:
            return f'{number / limit:.3g}{prefix}'
    return f'{number:g}'


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f'{whole} s'
    if whole < 3600:
        return f'{whole // 60} min {whole % 60:02d} s'
    return f'{whole // 3600} h {whole % 3600 // 60:02d} min'


def shorten(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters, an ellipsis in place of its middle."""
    if len(text) <= width:
        return text
    tail = max((width - 1) // 3, 0)
    return f'{text[:width - 1 - tail]}…{text[len(text) - tail:]}'


def one_line(text: object) -> str:
    """Any text on a single line."""
    return ' '.join(str(text).split())


def columns(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Rows of cells (the first is the head) in aligned columns; those numbered in ``right`` are flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ('  '.join(cell.rjust(width) if i in right else cell.ljust(width)
                       for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows)
    return '\n'.join(lines)
